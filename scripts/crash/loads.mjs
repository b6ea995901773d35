/**
 * The loads that clients put on the broker. `usual` is everything at once, with short queues. The others have
 * long queues that grow at one end and shrink at the other through many checkpoints: subscribers that lag
 * behind and drain (`lagging`), and queues that are full and drop their oldest messages (`full`).
 */

export const LOADS = ['usual', 'lagging', 'full']

const MIB = 1024 * 1024
const TOPICS = ['b/0', 'b/1', 'b/2']
const FILTER = [{ filter: 'b/#', changing: false }]
const QUEUE_BYTES_MAX = 4 * MIB
/**
 * Bytes that a full queue must still have. It cannot have all: a message that was published again is in it
 * twice, and a lost connection leaves some in flight.
 */
const OWED_BYTES = MIB

/** Returns what this load adds to Godwit's command line. */
export function wordsOf(load) {
  return load === 'full' ? ['--set', `limits.queue_bytes_max=${QUEUE_BYTES_MAX}`] : []
}

/** Returns the publishers of a load other than `usual`: most messages are small, some have kilobytes. */
export function publishersOf(load, random) {
  const names = load === 'lagging' ? ['small0', 'big0'] : ['tiny0', 'tiny1', 'tiny2', 'tiny3', 'big0']
  const topics = TOPICS.map((topic) => ({ topic, retain: false }))
  return names.map((name) => ({
    name,
    qos: random.pick([1, 1, 2]),
    topics,
    window: random.pick([200, 1000]),
    burstMax: load === 'lagging' ? 30 : name.startsWith('big') ? 10 : 60,
  }))
}

/** Returns the subscribers of such a load, without port and version. */
export function audienceOf(load, random) {
  const all = (qos) => FILTER.map((filter) => ({ ...filter, qos }))
  if (load === 'lagging') {
    return [
      { name: 'lagging1', filters: all(1), absence: 0.0005, pace: 10 },
      { name: 'lagging2', filters: all(2), absence: 0.0005, pace: 20 },
      { name: 'draining1', filters: all(1), absence: 0.01, pace: 100 },
      { name: 'draining2', filters: all(2), absence: 0.01 },
    ]
  }
  const full = Array.from({ length: 40 }, (_, index) => ({ name: `full${index}`, absence: 0, late: true }))
  const drained = [0, 1].map((index) => ({ name: `drained${index}`, absence: 0.01, pace: 20 }))
  return [...full, ...drained].map((one) => ({
    ...one,
    filters: all(random.pick([1, 2])),
    owedBytes: OWED_BYTES,
  }))
}
