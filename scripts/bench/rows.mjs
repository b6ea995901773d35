/** The rows of the benchmark, in groups. */

const NOBODY = 'none'

/** Fields of mqload's report, and their titles in the table. */
const DELIVERED = [
  ['out_per_s', 'delivered/s'],
  ['cpu_us_per_msg', 'CPU µs per message'],
  ['syscalls_per_msg', 'reads and writes per message'],
]

const LATENCY = [
  ['p50_us', 'p50 µs'],
  ['p99_us', 'p99 µs'],
  ['p999_us', 'p99.9 µs'],
  ['cpu_us_per_msg', 'CPU µs per message'],
]

const CONNECTIONS = [
  ['connects_per_s', 'connects/s'],
  ['cpu_us_per_connect', 'CPU µs per connect'],
  ['rss_bytes_per_conn', 'memory bytes per idle connection'],
  ['idle_cpu_pct', 'CPU % while idle'],
]

const KEPT_ALIVE = [
  ...CONNECTIONS,
  ['pings_per_s', 'PINGREQ answered/s'],
  ['cpu_us_per_ping', 'CPU µs per PINGREQ'],
  ['rss_bytes_per_active_conn', 'memory bytes per connection that pings'],
]

const SUBSCRIPTIONS = [
  ['subscribes_per_s', 'subscribed/s'],
  ['cpu_us_per_subscription', 'CPU µs per subscription'],
  ['rss_bytes_per_subscription', 'memory bytes per subscription'],
  ['cpu_us_per_msg', 'CPU µs per message'],
]

const LOOKUPS = [
  ['publish_per_s', 'stored/s'],
  ['cpu_us_per_publish', 'CPU µs per stored'],
  ['rss_bytes_per_message', 'memory bytes per retained message'],
  ['miss_cpu_us', 'CPU µs, filter that matches none'],
  ['exact_cpu_us', 'CPU µs, filter that matches one'],
  ['narrow_cpu_us_per_delivered', 'CPU µs per delivered, last level +'],
  ['cross_cpu_us_per_delivered', 'CPU µs per delivered, middle level +'],
  ['all_cpu_us_per_delivered', 'CPU µs per delivered, #'],
]

const SLOW = [
  ['out_per_s', 'delivered/s, all read'],
  ['stalled_out_per_s', 'delivered/s, 10 stalled'],
  ['p99_us', 'p99 µs, all read'],
  ['stalled_p99_us', 'p99 µs of the others, 10 stalled'],
  ['stalled_p999_us', 'p99.9 µs of the others, 10 stalled'],
  ['offered_mb_per_stalled', 'MB for each stalled one'],
  ['stalled_rss_peak_growth_mb', 'memory growth in MiB'],
]

const STORED = [
  ['store_per_s', 'queued/s'],
  ['cpu_us_per_stored', 'CPU µs per queued'],
  ['drain_per_s', 'drained/s'],
  ['cpu_us_per_drained', 'CPU µs per drained'],
]

/** Aedes takes `$share/...` for an ordinary filter, so nothing would be delivered. */
const UNSHARED = { aedes: '--shared 0', 'aedes-level': '--shared 0' }

function delivered(group, load, more = {}) {
  return { group, load, figures: DELIVERED, ratio: 'cpu_us_per_msg', ...more }
}

function subscriptions(load, more = {}) {
  const mix = `subs ${load} --wild 0.2 --shared 0.1`
  return {
    group: 'routing',
    load: mix,
    figures: SUBSCRIPTIONS,
    fresh: true,
    instead: UNSHARED,
    ratio: 'cpu_us_per_msg',
    ...more,
  }
}

function lookups(messages, more = {}) {
  const load = `lookup --messages ${messages} --window 200 --timeout 90`
  return { group: 'retained', load, figures: LOOKUPS, fresh: true, ratio: 'exact_cpu_us', ...more }
}

/**
 * @typedef {object} Row
 * @property {string} group
 * @property {string} [load] arguments of mqload
 * @property {string[][]} figures field and title of each
 * @property {string} [persistent] the clients whose Sessions are persistent
 * @property {'mqtt' | 'ws' | 'mqtts' | 'wss'} [over] the scheme of the listener; mqtt by default
 * @property {boolean} [fresh] each run has a broker of its own, for figures of memory
 * @property {boolean} [once] measured in one round only, because it takes long
 * @property {Record<string, string>} [instead] further arguments for a broker that cannot do it otherwise
 * @property {string} [ratio] the field that the chart shows
 */

/**
 * The rows by name.
 *
 * @type {Record<string, Row>}
 */
export const ROWS = {
  'fanin-q0': delivered('main', 'fanin --qos 0'),
  'fanin-q1': delivered('main', 'fanin --qos 1'),
  'fanin-q2': delivered('main', 'fanin --qos 2'),
  'fanout-q0': delivered('main', 'fanout --qos 0 --subs 100'),
  'fanout-q1': delivered('main', 'fanout --qos 1 --subs 100'),
  'fanout-q0-1000': delivered('main', 'fanout --qos 0 --subs 1000'),
  'fanout-q1-1000': delivered('main', 'fanout --qos 1 --subs 1000'),
  'pairs-q0': delivered('main', 'pairs --qos 0 --pairs 50'),
  'pairs-q1': delivered('main', 'pairs --qos 1 --pairs 50'),
  'pairs-q0-single': delivered('main', 'pairs --qos 0 --pairs 200 --window 1'),
  'pairs-q1-single': delivered('main', 'pairs --qos 1 --pairs 200 --window 1'),
  'fanout-q1-8k': delivered('main', 'fanout --qos 1 --subs 100 --payload 8192 --window 4'),
  'pairs-q0-8k': delivered('main', 'pairs --qos 0 --pairs 50 --payload 8192 --window 10'),
  'latency-q0': { group: 'latency', load: 'latency --qos 0 --pairs 50 --rate 2000', figures: LATENCY },
  'latency-q1': { group: 'latency', load: 'latency --qos 1 --pairs 50 --rate 2000', figures: LATENCY },
  'latency-q2': { group: 'latency', load: 'latency --qos 2 --pairs 50 --rate 2000', figures: LATENCY },
  'subs-1k': subscriptions('--clients 100 --filters 10'),
  'subs-10k': subscriptions('--clients 100 --filters 100'),
  'subs-100k': subscriptions('--clients 100 --filters 1000'),
  'subs-1M': subscriptions('--clients 100 --filters 10000 --timeout 90', { once: true }),
  'churn-100k': subscriptions('--clients 100 --filters 1000 --churn 2000', {
    figures: [...SUBSCRIPTIONS, ['churned', 'subscribed and unsubscribed meanwhile']],
  }),
  'topics-1M': delivered('routing', 'fanin --qos 0 --topics 1000000', {
    fresh: true,
    figures: [...DELIVERED, ['rss_growth_kb', 'memory growth in KiB']],
  }),
  'crowd-100k': {
    group: 'routing',
    load: 'crowd --subs 100000 --messages 5 --window 1 --timeout 120',
    persistent: '100,000 subscribers, offline',
    fresh: true,
    once: true,
    figures: [
      ['sessions_per_s', 'connected, subscribed and gone/s'],
      ['cpu_us_per_session', 'CPU µs per Session'],
      ['rss_bytes_per_session', 'memory bytes per Session with its Subscription'],
      ['queued_per_s', 'queued/s'],
      ['cpu_us_per_queued', 'CPU µs per queued'],
    ],
    ratio: 'cpu_us_per_queued',
  },
  retained: {
    group: 'retained',
    load: 'retained --messages 20000',
    figures: [
      ['publish_per_s', 'stored/s'],
      ['cpu_us_per_publish', 'CPU µs per stored'],
      ['drain_per_s', 'sent to a newcomer/s'],
      ['cpu_us_per_drained', 'CPU µs per sent'],
    ],
  },
  'lookup-10k': lookups(10_000),
  'lookup-1M': lookups(1_000_000, { once: true }),
  connect: {
    group: 'connections',
    load: 'connect --conns 2000 --hold 0.2',
    figures: CONNECTIONS.slice(0, 2),
    ratio: 'cpu_us_per_connect',
  },
  idle: {
    group: 'connections',
    load: 'connect --conns 2000 --hold 1',
    fresh: true,
    figures: CONNECTIONS.slice(2),
  },
  'connections-15k': {
    group: 'connections',
    load: 'connect --conns 15000 --hold 1 --ping 3',
    fresh: true,
    once: true,
    figures: KEPT_ALIVE,
  },
  'connections-15k-tls': {
    group: 'connections',
    load: 'connect --conns 15000 --hold 1 --ping 3 --timeout 120',
    over: 'mqtts',
    fresh: true,
    once: true,
    figures: KEPT_ALIVE,
  },
  'durable-q1': {
    group: 'durable',
    load: 'offline --messages 5000 --pubs 10',
    persistent: '10 subscribers, offline',
    figures: STORED,
    ratio: 'cpu_us_per_stored',
  },
  'ws-fanin-q1': delivered('wire', 'fanin --qos 1', { over: 'ws' }),
  'ws-fanout-q0': delivered('wire', 'fanout --qos 0 --subs 100', { over: 'ws' }),
  'ws-pairs-q0': delivered('wire', 'pairs --qos 0 --pairs 50', { over: 'ws' }),
  'ws-pairs-q0-single': delivered('wire', 'pairs --qos 0 --pairs 200 --window 1', { over: 'ws' }),
  'ws-pairs-q1-single': delivered('wire', 'pairs --qos 1 --pairs 200 --window 1', { over: 'ws' }),
  'tls-fanin-q1': delivered('wire', 'fanin --qos 1', { over: 'mqtts' }),
  'tls-fanout-q0': delivered('wire', 'fanout --qos 0 --subs 100', { over: 'mqtts' }),
  'tls-pairs-q0': delivered('wire', 'pairs --qos 0 --pairs 50', { over: 'mqtts' }),
  'tls-pairs-q0-single': delivered('wire', 'pairs --qos 0 --pairs 200 --window 1', { over: 'mqtts' }),
  'tls-pairs-q1-single': delivered('wire', 'pairs --qos 1 --pairs 200 --window 1', { over: 'mqtts' }),
  'wss-fanin-q1': delivered('wire', 'fanin --qos 1', { over: 'wss' }),
  'wss-pairs-q1-single': delivered('wire', 'pairs --qos 1 --pairs 200 --window 1', { over: 'wss' }),
  'slow-q0': {
    group: 'slow',
    load: 'slow --qos 0 --subs 1000 --stalled 10 --rate 30',
    fresh: true,
    figures: SLOW,
  },
  'slow-q1': {
    group: 'slow',
    load: 'slow --qos 1 --subs 1000 --stalled 10 --rate 30',
    fresh: true,
    figures: SLOW,
  },
  start: {
    group: 'start',
    fresh: true,
    figures: [
      ['start_ms', 'ms from start to first CONNACK'],
      ['rss_mb', 'memory at rest in MiB'],
      ['installed_mb', 'installed size in MiB'],
      ['dependencies', 'packages or libraries it needs'],
    ],
  },
}

/** Groups, and further rows, that a relay can run that keeps nothing and speaks TCP only. */
const BARE_GROUPS = ['main', 'latency', 'start']
const BARE_ROWS = ['connect', 'idle', 'connections-15k']

/** Tells whether a broker is measured in a row. */
export function isFor(row, broker) {
  return broker !== 'bare-node' || BARE_GROUPS.includes(ROWS[row].group) || BARE_ROWS.includes(row)
}

/** Returns the title of a field in the table. */
export function nameOf(row, field) {
  return Object.fromEntries(ROWS[row].figures)[field]
}

export const GROUPS = [...new Set(Object.values(ROWS).map(({ group }) => group))]

/** Returns the arguments of mqload for a row and a broker. */
export function mqloadWords(row, broker) {
  const { load = '', over = 'mqtt', instead } = ROWS[row]
  const wire = { mqtt: [], ws: ['--ws'], mqtts: ['--tls'], wss: ['--ws', '--tls'] }[over]
  const more = instead?.[broker.name]?.split(' ') ?? []
  return ['--scenario', ...load.split(' '), ...more, ...wire, '--port', `${broker.ports[over]}`]
}

/** Names the clients whose Sessions are persistent, for the table. */
export function persistentSessions(row) {
  return ROWS[row].persistent ?? NOBODY
}

/**
 * The title of the chart's row that shows the row's `ratio`; or several titles, by the field that each shows.
 *
 * @type {Record<string, string | Record<string, string>>}
 */
export const TITLES = {
  'fanin-q0': 'fan-in 10 to 1, QoS 0',
  'fanin-q1': 'fan-in, QoS 1',
  'fanin-q2': 'fan-in, QoS 2',
  'fanout-q0': 'fan-out 1 to 100, QoS 0',
  'fanout-q1': 'fan-out 1 to 100, QoS 1',
  'fanout-q0-1000': 'fan-out 1 to 1,000, QoS 0',
  'fanout-q1-1000': 'fan-out 1 to 1,000, QoS 1',
  'pairs-q0': '50 pairs, QoS 0',
  'pairs-q1': '50 pairs, QoS 1',
  'pairs-q0-single': '200 pairs, QoS 0, one message a segment',
  'pairs-q1-single': '200 pairs, QoS 1, one message a segment',
  'fanout-q1-8k': 'fan-out 1 to 100, QoS 1, 8 KiB',
  'pairs-q0-8k': '50 pairs, QoS 0, 8 KiB',
  'subs-1k': '1,000 subscriptions',
  'subs-10k': '10,000 subscriptions',
  'subs-100k': '100,000 subscriptions',
  'subs-1M': '1,000,000 subscriptions',
  'churn-100k': '100,000 subscriptions, 2,000 changes/s',
  'topics-1M': '1,000,000 topics',
  'crowd-100k': '1 to 100,000 offline Sessions, per queued',
  retained: {
    cpu_us_per_publish: 'retained message stored',
    cpu_us_per_drained: 'retained message to a newcomer',
  },
  'lookup-10k': 'one of 10,000 retained messages',
  'lookup-1M': 'one of 1,000,000 retained messages',
  connect: 'CONNECT to CONNACK',
  'durable-q1': 'queued for an offline Session',
  'ws-fanin-q1': 'WebSocket: fan-in, QoS 1',
  'ws-fanout-q0': 'WebSocket: fan-out 1 to 100, QoS 0',
  'ws-pairs-q0': 'WebSocket: 50 pairs, QoS 0',
  'ws-pairs-q0-single': 'WebSocket: 200 pairs, QoS 0, one a segment',
  'ws-pairs-q1-single': 'WebSocket: 200 pairs, QoS 1, one a segment',
  'tls-fanin-q1': 'TLS: fan-in, QoS 1',
  'tls-fanout-q0': 'TLS: fan-out 1 to 100, QoS 0',
  'tls-pairs-q0': 'TLS: 50 pairs, QoS 0',
  'tls-pairs-q0-single': 'TLS: 200 pairs, QoS 0, one a segment',
  'tls-pairs-q1-single': 'TLS: 200 pairs, QoS 1, one a segment',
  'wss-fanin-q1': 'WebSocket over TLS: fan-in, QoS 1',
  'wss-pairs-q1-single': 'WebSocket over TLS: 200 pairs, QoS 1, one a segment',
}
