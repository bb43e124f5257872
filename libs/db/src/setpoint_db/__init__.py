"""PostgreSQL for Setpoint's services.

Each service owns one schema and reaches it through one engine. A unit of work is one
`engine.transaction`; whatever the driver says when the database is away becomes
`UnavailableError`, so that a caller sees a reason and not a driver. Schemas change through
numbered migrations in the service's package, and `idempotency.once` makes a mutating call
safe to repeat.
"""
