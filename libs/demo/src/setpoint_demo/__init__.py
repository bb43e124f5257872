"""Real history as a story: the flights that left New York in 2013, replayed in event-time order.

The question, asked at the last full hour before scheduled departure: will the flight arrive more
than 15 minutes late? The answer is known only when it has landed, and never when it was cancelled.
"""
