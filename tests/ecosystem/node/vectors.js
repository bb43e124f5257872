// Checks another implementation of the version assignment by the published vectors: slots, tables through their
// revisions, layers and whole choices. Prints how many of each hold; throws at the first that does not.
//
//   node vectors.js PROTO_FOLDER
'use strict';

const assert = require('node:assert');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { xxh3 } = require('@node-rs/xxhash');

const SLOTS = 10000;

function hash(salt, key) {
  return xxh3.xxh64(Buffer.concat([Buffer.from(salt), Buffer.from([0]), Buffer.from(key)]));
}

function slotOf(salt, key) {
  return Number(hash(salt, key) % BigInt(SLOTS));
}

function rebalance(table, weights, salt, revision) {
  const seed = `${salt}\0${revision}`;
  const ranks = table.map((_, slot) => hash(seed, String(slot)));
  const order = [...ranks.keys()].sort((a, b) => (ranks[a] < ranks[b] ? -1 : ranks[a] > ranks[b] ? 1 : a - b));
  const kept = {};
  const leaving = order.filter((slot) => {
    const version = table[slot];
    kept[version] = kept[version] ?? 0;
    if (kept[version] >= (weights[version] ?? 0)) return true;
    kept[version] += 1;
    return false;
  });
  const moved = leaving.length;
  const next = [...table];
  for (const version of Object.keys(weights).map(Number).sort((a, b) => a - b)) {
    const lacking = weights[version] - (kept[version] ?? 0);
    for (const slot of leaving.splice(0, lacking)) next[slot] = version;
  }
  assert.strictEqual(leaving.length, 0);
  return { table: next, moved };
}

function digest(table) {
  const bytes = Buffer.alloc(4 * table.length);
  table.forEach((version, slot) => bytes.writeInt32LE(version, 4 * slot));
  return crypto.createHash('sha256').update(bytes).digest('hex');
}

function choose(route, table, key) {
  if (Object.hasOwn(route.overrides, key)) return [route.overrides[key], 'OVERRIDE'];
  const slot = slotOf(`layer/${route.layer.name}`, key);
  if (slot < route.layer.first_slot || slot >= route.layer.end_slot) return [route.layer.baseline_version, 'LAYER'];
  return [table[slotOf(route.salt, key)], 'SLOT'];
}

const file = path.join(process.argv[2], 'vectors', 'assignment.json');
const vectors = JSON.parse(fs.readFileSync(file, 'utf8'));
const empty = () => new Array(SLOTS).fill(0);

for (const { salt, key, key_utf8, hash: wanted, slot } of vectors.slots) {
  assert.strictEqual(Buffer.from(key).toString('hex'), key_utf8);
  assert.strictEqual(hash(salt, key).toString(16).padStart(16, '0'), wanted);
  assert.strictEqual(slotOf(salt, key), slot);
}
let revisions = 0;
for (const { salt, revisions: wanted } of vectors.tables) {
  let table = empty();
  for (const { revision, weights, moved, slots, digest: sum } of wanted) {
    const next = rebalance(table, weights, salt, revision);
    table = next.table;
    assert.strictEqual(revision === 1 ? 0 : next.moved, moved);
    for (const [slot, version] of Object.entries(slots)) assert.strictEqual(table[slot], version);
    assert.strictEqual(digest(table), sum);
    revisions += 1;
  }
}
for (const { layer, key, slot } of vectors.layers) assert.strictEqual(slotOf(`layer/${layer}`, key), slot);
const { route } = vectors;
const table = route.revisions.reduce((before, weights, at) => rebalance(before, weights, route.salt, at + 1).table, empty());
for (const { key, slot, version, reason } of route.choices) {
  assert.strictEqual(slotOf(route.salt, key), slot);
  assert.deepStrictEqual(choose(route, table, key), [version, reason]);
}
console.log(
  JSON.stringify({
    slots: vectors.slots.length,
    tables: revisions,
    layers: vectors.layers.length,
    choices: route.choices.length,
  })
);
