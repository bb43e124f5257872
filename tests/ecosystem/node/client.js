// Drives the router from Node with nothing but its contracts: one prediction, one batch whose columns
// are built from typed arrays, and the typed errors of three bad questions. Prints one JSON object.
//
//   node client.js ADDRESS PROTO_FOLDER QUESTION
//
// QUESTION is the JSON of a PredictRequest that is answered.
'use strict';

const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const SECONDS = 30;
const DETAILS = 'grpc-status-details-bin';

// The part of google.rpc that carries errors; the package of these contracts is not on npm.
const errors = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message FieldViolation { string field = 1; string description = 2; }
  message BadRequest { repeated FieldViolation field_violations = 1; }
`).root;

function typed(error) {
  const told = { code: grpc.status[error.code], reason: '', domain: '', fields: [] };
  const [bytes] = error.metadata.get(DETAILS);
  if (bytes === undefined) return told;
  for (const detail of errors.lookupType('Status').decode(bytes).details) {
    const name = detail.typeUrl.split('/').pop();
    if (name === 'google.rpc.ErrorInfo') {
      const info = errors.lookupType('ErrorInfo').decode(detail.value);
      told.reason = info.reason;
      told.domain = info.domain;
    } else if (name === 'google.rpc.BadRequest') {
      const bad = errors.lookupType('BadRequest').decode(detail.value);
      told.fields = bad.fieldViolations.map((violation) => violation.field);
    }
  }
  return told;
}

function call(router, method, request) {
  const deadline = new Date(Date.now() + SECONDS * 1000);
  const metadata = new grpc.Metadata();
  metadata.set('x-setpoint-caller', 'node');
  return new Promise((resolve, reject) => {
    router[method](request, metadata, { deadline }, (error, answer) => {
      if (error) reject(error);
      else resolve(answer);
    });
  });
}

async function refusal(promise) {
  try {
    await promise;
  } catch (error) {
    return typed(error);
  }
  throw new Error('the call should have failed');
}

// Columns have Arrow's buffers, which typed arrays read and write on any little-endian machine.

function numbers(name, values) {
  return { name, dtype: 'DATA_TYPE_FLOAT64', values: Buffer.from(Float64Array.from(values).buffer) };
}

function integers(name, values) {
  const array = BigInt64Array.from(values.map(BigInt));
  return { name, dtype: 'DATA_TYPE_INT64', values: Buffer.from(array.buffer) };
}

function texts(name, values) {
  const parts = values.map((value) => Buffer.from(value, 'utf8'));
  const offsets = new Int32Array(parts.length + 1);
  parts.forEach((part, row) => {
    offsets[row + 1] = offsets[row] + part.length;
  });
  return {
    name,
    dtype: 'DATA_TYPE_STRING',
    values: Buffer.concat(parts),
    offsets: Buffer.from(offsets.buffer),
  };
}

function read(column) {
  // Copied, because a typed array needs a start that its width divides.
  const bytes = Uint8Array.from(column.values).buffer;
  switch (column.dtype) {
    case 'DATA_TYPE_FLOAT32':
      return Array.from(new Float32Array(bytes));
    case 'DATA_TYPE_INT32':
      return Array.from(new Int32Array(bytes));
    case 'DATA_TYPE_INT64':
      return Array.from(new BigInt64Array(bytes), Number);
    case 'DATA_TYPE_STRING': {
      const offsets = new Int32Array(Uint8Array.from(column.offsets).buffer);
      return Array.from(offsets.subarray(1), (end, row) =>
        column.values.subarray(offsets[row], end).toString('utf8'),
      );
    }
    default:
      throw new Error(`no reader for ${column.dtype}`);
  }
}

function table(batch) {
  return Object.fromEntries(batch.columns.map((column) => [column.name, read(column)]));
}

async function main() {
  const [address, folder, text] = process.argv.slice(2);
  const question = JSON.parse(text);
  const definition = loader.loadSync('setpoint/router/v1/router_service.proto', {
    includeDirs: [folder],
    keepCase: true,
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
  });
  const { RouterService } = grpc.loadPackageDefinition(definition).setpoint.router.v1;
  const router = new RouterService(address, grpc.credentials.createInsecure());

  const answer = await call(router, 'Predict', question);
  const value = (each) => each[each.kind];
  const rows = [0, 1, 2];
  const given = [
    ...Object.entries(question.entities),
    ...Object.entries(question.inputs),
  ].map(([name, each]) => {
    const values = rows.map(() => Object.values(each)[0]);
    if ('string_value' in each) return texts(name, values);
    return 'int_value' in each ? integers(name, values) : numbers(name, values);
  });
  const batch = await call(router, 'PredictBatch', {
    route: question.route,
    event_time: question.event_time,
    assignment_key_column: 'who',
    rows: { rows: rows.length, columns: [...given, texts('who', rows.map((row) => `Zoë-${row}`))] },
  });

  const [first] = Object.keys(question.inputs);
  const without = { ...question.inputs };
  delete without[first];
  const wrong = { ...question.inputs, [first]: { bool_value: true } };
  const told = {
    answer: {
      prediction_id: answer.prediction_id,
      version: answer.assignment.model_version.version,
      probability: value(answer.outputs.probability),
    },
    batch: { ...table(batch.results), ...table(batch.outputs) },
    errors: {
      route: await refusal(call(router, 'Predict', { ...question, route: 'no-such-route' })),
      missing: await refusal(call(router, 'Predict', { ...question, inputs: without })),
      type: await refusal(call(router, 'Predict', { ...question, inputs: wrong })),
    },
  };
  router.close();
  process.stdout.write(`${JSON.stringify(told)}\n`);
}

main().catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
});
