/**
 * The targets of the benchmark of queues, and whether they are reached.
 *
 * @typedef {(row: string, name: string, of: (figure: any) => number) => number | undefined} Read
 *   the median of a figure; undefined if the row was not run
 */

const us = (figure) => figure.us
const rate = (figure) => figure.perSecond
const p50 = (figure) => figure.last.p50
const p99 = (figure) => figure.last.p99

/** @type {{ target: string, max?: number, min?: number, of: (read: Read) => number | undefined }[]} */
const TARGETS = [1, 10, 100].flatMap((clients) => [
  { target: `in ${clients}: CPU us`, max: 4, of: (read) => read(`in ${clients}`, 'godwit', us) },
  {
    target: `in ${clients}: CPU of RabbitMQ quorum`,
    max: 0.15,
    of: ratio(`in ${clients}`, 'rabbitmq-quorum', us),
  },
  { target: `in ${clients}: CPU of JetStream`, max: 0.5, of: ratio(`in ${clients}`, 'nats', us) },
  {
    target: `in ${clients}: rate of RabbitMQ quorum`,
    min: 5,
    of: ratio(`in ${clients}`, 'rabbitmq-quorum', rate),
  },
  { target: `out ${clients}: CPU us`, max: 4, of: (read) => read(`out ${clients}`, 'godwit', us) },
  {
    target: `out ${clients}: CPU of RabbitMQ quorum`,
    max: 0.15,
    of: ratio(`out ${clients}`, 'rabbitmq-quorum', us),
  },
  {
    target: `out ${clients}: shares differ by`,
    max: 0.05,
    of: (read) => read(`out ${clients}`, 'godwit', (figure) => figure.spread),
  },
])
TARGETS.push(
  {
    target: 'prefetch auto: rate of 100',
    min: 0.9,
    of: (read) => divided(read('drain auto 10', 'godwit', rate), read('out 10', 'godwit', rate)),
  },
  { target: 'live 10: CPU us in and out', max: 6, of: (read) => read('live 10', 'godwit', us) },
  {
    target: 'key: rate of fair',
    min: 0.6,
    of: (read) => divided(read('drain key 10', 'godwit', rate), read('drain fair 10', 'godwit', rate)),
  },
  {
    target: 'latency p50 of a plain pair',
    max: 1.5,
    of: (read) => divided(read('latency queue', 'godwit', p50), read('latency plain', 'godwit', p50)),
  },
  {
    target: 'latency p99 of a plain pair',
    max: 1.5,
    of: (read) => divided(read('latency queue', 'godwit', p99), read('latency plain', 'godwit', p99)),
  },
  {
    target: 'slow pair: share of the fast one',
    min: 0.88,
    of: (read) => read('slow pair', 'godwit', (figure) => figure.share),
  },
  {
    target: 'topics without queues: CPU with 10,000 queues',
    max: 1.03,
    of: (read) => divided(read('guard many', 'godwit-memory', us), read('guard none', 'godwit-memory', us)),
  },
)

/** @returns {(read: Read) => number | undefined} */
function ratio(row, other, of) {
  return (read) => divided(read(row, 'godwit', of), read(row, other, of))
}

function divided(one, other) {
  return one === undefined || other === undefined ? undefined : one / other
}

/** Returns the targets whose rows were run. */
export function judge(/** @type {Read} */ read) {
  return TARGETS.flatMap(({ target, max, min, of }) => {
    const figure = of(read)
    if (figure === undefined) return []
    const isReached = max === undefined ? figure >= /** @type {number} */ (min) : figure <= max
    return [{ target: `${target} ${max === undefined ? `≥ ${min}` : `≤ ${max}`}`, figure, isReached }]
  })
}
