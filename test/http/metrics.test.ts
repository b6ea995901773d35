/** The page of `/metrics`: served by a broker, checked by a strict parser, and described in the document. */
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { afterEach, describe, expect, test } from 'vitest'
import { type Broker, createBroker } from '../../src/godwit.ts'
import { exposition } from '../../src/http/exposition.ts'
import type { HttpContext } from '../../src/http/http-context.ts'
import { HttpFigures } from '../../src/http/http-figures.ts'
import { completeHttp } from '../../src/http/http-options.ts'
import { PAGE_ROWS } from '../../src/http/metric-table.ts'
import { MetricsPage } from '../../src/http/metrics-page.ts'
import { ProcessWatch } from '../../src/http/process-watch.ts'
import { NAMED_QUEUES_MAX, namedQueues, QUEUE_ROWS } from '../../src/http/queue-rows.ts'
import { takeSnapshot } from '../../src/observe/snapshot.ts'
import { World } from '../broker/harness.ts'
import { type ParsedFamily, parseExposition } from './exposition-parser.ts'

const DOCUMENT = new URL('../../docs/metrics.md', import.meta.url)
const HTTP = { hosts: ['127.0.0.1'], port: 0 }
const TOKEN = 'a-token-of-the-test'

const brokers: Broker[] = []

async function started(options: Parameters<typeof createBroker>[0] = {}): Promise<Broker> {
  const broker = await createBroker({ http: HTTP, ...options })
  brokers.push(broker)
  return broker
}

afterEach(async () => {
  await Promise.all(brokers.splice(0).map((broker) => broker.close()))
})

async function scraped(broker: Broker, init: RequestInit = {}): Promise<Response> {
  return fetch(`${broker.httpAddresses[0]}/metrics`, init)
}

function valueIn(families: Map<string, ParsedFamily>, name: string, label?: string): number | undefined {
  const samples = families.get(name)?.samples ?? []
  return samples.find(({ labels }) => label === undefined || Object.values(labels)[0] === label)?.value
}

describe('a scrape', () => {
  test('shows every metric of the table, with its type and help text', async () => {
    const answer = await scraped(await started())
    expect(answer.status).toBe(200)
    expect(answer.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8')
    const families = parseExposition(await answer.text())
    const shown = [...families.values()].map(({ name, type, help }) => [name, type, help])
    expect(shown).toEqual(PAGE_ROWS.map(({ name, kind, help }) => [name, kind, `${help}.`]))
    const empty = [...families.values()].filter(({ samples }) => samples.length === 0)
    const names = empty.map(({ name }) => name).filter((name) => !name.startsWith('godwit_queue_'))
    expect(names).toEqual(['godwit_certificate_expiry_seconds'])
    expect(valueIn(families, 'godwit_ready')).toBe(1)
    expect(valueIn(families, 'godwit_process_resident_memory_bytes')).toBeGreaterThan(1e6)
  })

  test('HEAD, other methods and types that there are not', async () => {
    const broker = await started()
    const head = await scraped(broker, { method: 'HEAD' })
    expect([head.status, await head.text()]).toEqual([200, ''])
    const post = await scraped(broker, { method: 'DELETE' })
    expect([post.status, post.headers.get('allow')]).toEqual([405, 'GET, HEAD'])
    const json = await scraped(broker, { headers: { accept: 'application/json' } })
    expect([json.status, await json.text()]).toEqual([406, expect.stringContaining('text/plain')])
  })

  test('needs a token if there are any; refusals are counted, and a reload changes tokens', async () => {
    const metricsTokenHashes = [createHash('sha256').update(TOKEN).digest('hex')]
    const broker = await started({ http: { ...HTTP, metricsTokenHashes } })
    const refused = await scraped(broker)
    expect([refused.status, refused.headers.get('www-authenticate')]).toEqual([
      401,
      expect.stringMatching(/^Bearer /),
    ])
    expect(await refused.text()).toMatch(/http\.metrics_token_hashes/)
    const answer = await scraped(broker, { headers: { authorization: `Bearer ${TOKEN}` } })
    expect(answer.status).toBe(200)
    const families = parseExposition(await answer.text())
    expect(valueIn(families, 'godwit_http_refusals_total', 'token')).toBe(1)
    await broker.reconfigure({ http: { ...HTTP, metricsTokenHashes: [] } })
    expect((await scraped(broker)).status).toBe(200)
    await broker.reconfigure({ http: { ...HTTP, metrics: false } })
    expect((await scraped(broker)).status).toBe(404)
  })

  test('a proxy on this machine does not open metrics to others', async () => {
    const answer = await scraped(await started(), { headers: { 'x-forwarded-for': '192.0.2.1' } })
    expect(answer.status).toBe(403)
  })
})

describe('the page', () => {
  async function page(): Promise<{ page: MetricsPage; world: World; taken: () => number; stop: () => void }> {
    const world = await World.make()
    let taken = 0
    let isRunning = true
    const context: HttpContext = {
      options: completeHttp({}),
      figures: new HttpFigures(),
      sources: {
        readiness: () => ({ isReady: true, reasons: [] }),
        machineNames: () => [],
        isBanned: () => false,
        isRunning: () => isRunning,
        metrics: () => {
          if (!isRunning) return null
          taken++
          const sockets = { open: 0, connectionsMax: Number.POSITIVE_INFINITY, openFilesMax: 1024 }
          const certificateDays = { 'a "public" one': 2 }
          return {
            version: '1.2.3',
            queues: world.server.queueOperator,
            snapshot: takeSnapshot({ server: world.server, startedAtMs: 0, sockets, certificateDays }),
          }
        },
      },
    }
    const stop = (): void => {
      isRunning = false
    }
    return { page: new MetricsPage(context, new ProcessWatch()), world, taken: () => taken, stop }
  }

  test('is made once a second however often it is asked for', async () => {
    const { page: made, taken } = await page()
    const first = made.text(5000)
    expect(made.text(5999)).toBe(first)
    expect(taken()).toBe(1)
    made.text(6000)
    expect(taken()).toBe(2)
  })

  test('is not there while the broker starts or stops', async () => {
    const { page: made, stop } = await page()
    expect(made.text(0)).not.toBeNull()
    stop()
    expect([made.text(1), made.text(5000)]).toEqual([null, null])
  })

  test('counts days as seconds, limits by their keys, and knows unlimited ones', async () => {
    const { page: made, world } = await page()
    world.server.state.counters.limits.connectionsMax = 3
    const families = parseExposition(made.text(0)!)
    expect(valueIn(families, 'godwit_certificate_expiry_seconds', 'a "public" one')).toBe(172_800)
    expect(valueIn(families, 'godwit_limit_refusals_total', 'connections_max')).toBe(3)
    expect(valueIn(families, 'godwit_connections_limit')).toBe(Number.POSITIVE_INFINITY)
    expect(valueIn(families, 'godwit_build_info', '1.2.3')).toBe(1)
  })
})

describe('queues', () => {
  test('have series of their own if the operator declared them, at most a hundred', async () => {
    const world = await World.make({ queues: { enabled: true } })
    const operator = world.server.queueOperator!
    for (let at = 0; at < NAMED_QUEUES_MAX + 5; at++) {
      await operator.declare(`declared-${String(at).padStart(3, '0')}`, {}, 'operator')
    }
    const client = await world.connect('consumer')
    await client.subscribe('$queue/a-made-by-use', 1)
    await client.publish('$queue/declared-104', 'x', 1)
    await client.subscribe('$queue/declared-104', 1)
    expect([...operator.list()].map((entry) => entry?.name)).toContain('a-made-by-use')
    const named = namedQueues(operator)
    expect(named).toHaveLength(NAMED_QUEUES_MAX)
    expect(named[0]?.name).toBe('declared-104')
    expect(named.map(({ name }) => name)).not.toContain('a-made-by-use')
    const rows = QUEUE_ROWS.map((row) => ({ ...row, value: row.read(named) }))
    const families = parseExposition(exposition(rows))
    expect(valueIn(families, 'godwit_queue_messages_in_total', 'declared-104')).toBe(1)
    expect(valueIn(families, 'godwit_queue_consumers', 'declared-104')).toBe(1)
    expect(valueIn(families, 'godwit_queue_ready_messages', 'declared-000')).toBe(0)
    const waits = families.get('godwit_queue_wait_seconds')!.samples
    expect(waits.find(({ name }) => name.endsWith('_count'))?.value).toBe(1)
  })
})

/** The document with a line for each metric. `WRITE_DOCS=1` writes them. */
function documented(text: string): string {
  const rows = PAGE_ROWS.map(({ name, kind, label, help }) => {
    return `| \`${name}\` | ${kind} | ${label === null ? '' : `\`${label}\``} | ${help} |`
  })
  const lines = text.split('\n')
  const isRow = (line: string): boolean => line.startsWith('| `godwit_')
  const first = lines.findIndex((line) => line.startsWith('| metric |')) + 2
  const rest = lines.slice(first).filter((line) => !isRow(line))
  return [...lines.slice(0, first), ...rows, ...rest].join('\n')
}

test('docs/metrics.md has a line for each metric', () => {
  const text = readFileSync(DOCUMENT, 'utf8')
  const wanted = documented(text)
  if (process.env.WRITE_DOCS === '1') writeFileSync(DOCUMENT, wanted)
  else expect(text).toBe(wanted)
})
