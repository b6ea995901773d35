import { readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { type Browser, chromium } from 'playwright-core'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  BrokerProcess,
  cleanUp,
  type Ended,
  MAIN,
  MosquittoSub,
  mosquittoPub,
  output,
  Program,
  ROOT,
} from './process.ts'

function godwit(...words: string[]): Promise<Ended> {
  return new Program(process.execPath, [MAIN, ...words]).ended
}

const FLAGS = [
  ...['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'],
  ...['--disable-background-networking', '--disable-component-update', '--disable-sync'],
  // Recent versions of this browser refuse by themselves, but the broker cannot rely on that.
  ...['--host-resolver-rules=MAP *.example 127.0.0.1', '--disable-features=LocalNetworkAccessChecks'],
]

/** Runs in the page: does everything a page does, and returns the messages. */
const SCRIPT = `async (url, protocolVersion) => {
  const dialect = protocolVersion === 3 ? { protocolId: 'MQIsdp' } : {}
  const client = await mqtt.connectAsync(url, { protocolVersion, ...dialect, reconnectPeriod: 0 })
  const got = []
  const done = new Promise((resolve) => client.on('message', (topic, payload, packet) => {
    got.push([topic, payload.toString(), packet.qos, packet.retain])
    if (topic === 'page/end') resolve()
  }))
  await client.subscribeAsync('page/#', { qos: 2 })
  for (const qos of [0, 1, 2]) await client.publishAsync('page/own/' + qos, 'from the page', { qos })
  await client.publishAsync('to/outside', 'x'.repeat(200_000), { qos: 1 })
  await done
  await client.endAsync()
  return got
}`

/** Runs in the page: leaves a Session behind, comes back to it, and stays until the page is closed. */
const SESSION = `async (url, protocolVersion) => {
  const dialect = protocolVersion === 3 ? { protocolId: 'MQIsdp' } : {}
  const properties = protocolVersion === 5
    ? { sessionExpiryInterval: 3600, receiveMaximum: 2, topicAliasMaximum: 5 }
    : undefined
  const will = { topic: 'will/of/page', payload: 'the page was closed', qos: 1, retain: false }
  const session = { clientId: 'page', clean: false, reconnectPeriod: 0 }
  const options = { protocolVersion, ...dialect, properties, will, ...session }
  const first = await mqtt.connectAsync(url, options)
  await first.subscribeAsync('session/#', { qos: 2 })
  await first.subscribeAsync('$share/g/jobs', { qos: 1 })
  await first.endAsync()
  await fetch('/away')
  const again = mqtt.connect(url, options)
  const got = []
  await new Promise((resolve) => again.on('message', (topic, payload) => {
    got.push(topic + ' ' + payload)
    if (got.length === 11) resolve()
  }))
  return got
}`

/** Runs in the page: reads a retained message, or says that it was not let in. */
const READ = `(url) => new Promise((resolve) => {
  const client = mqtt.connect(url, { reconnectPeriod: 0 })
  client.on('connect', () => client.subscribe('home/#', { qos: 1 }))
  client.on('message', (topic, payload) => resolve(topic + ' ' + payload))
  client.on('error', () => resolve('refused'))
  client.on('close', () => resolve('refused'))
})`

let pages: Server
/** Resolves when the client of a page is away; the page then waits for messages. */
let away: { promise: Promise<() => void>; resolve: (goOn: () => void) => void }
let browser: Browser

beforeEach(async () => {
  const script = readFileSync(join(ROOT, 'node_modules', 'mqtt', 'dist', 'mqtt.min.js'))
  pages = createServer((request, response) => {
    if (request.url === '/away') away.resolve(() => response.end())
    else if (request.url === '/mqtt.js') response.setHeader('content-type', 'text/javascript').end(script)
    else response.setHeader('content-type', 'text/html').end('<script src="/mqtt.js"></script>')
  })
  let resolve: (goOn: () => void) => void = () => {}
  away = { promise: new Promise((fulfil) => (resolve = fulfil)), resolve: (goOn) => resolve(goOn) }
  await new Promise<void>((resolve) => pages.listen(0, '127.0.0.1', resolve))
  const executablePath = (await output('which', 'chromium')).trim()
  browser = await chromium.launch({ executablePath, args: FLAGS })
})

afterEach(async () => {
  await browser.close()
  await new Promise((resolve) => pages.close(resolve))
  await cleanUp()
})

/** Of the pages; the broker has another port, so it is another origin. */
function origin(): string {
  return `http://127.0.0.1:${(pages.address() as AddressInfo).port}`
}

function allowing(...origins: string[]): string[] {
  return ['--set', `allowed_origins=${JSON.stringify(origins)}`]
}

async function whatAPageReads(broker: BrokerProcess, from: string, host: string): Promise<unknown> {
  const page = await browser.newPage()
  // Served from here whatever its name is: what counts is which origin the browser believes it to have.
  await page.route(`${from}/**`, async (route) => {
    const answered = await fetch(route.request().url().replace(from, origin()))
    await route.fulfill({
      contentType: answered.headers.get('content-type') ?? '',
      body: await answered.text(),
    })
  })
  await page.goto(from)
  const url = `ws://${host}:${broker.webSocketPort}/mqtt`
  return page.evaluate(`(${READ})(${JSON.stringify(url)})`)
}

describe('pages that nobody allowed on the default broker', () => {
  const publish = (broker: BrokerProcess): Promise<unknown> =>
    mosquittoPub(broker.port, '-q', '1', '-r', '-t', 'home/alarm/code', '-m', '4711')

  test('read nothing, unless their origin is listed [field-D22]', async () => {
    const broker = await BrokerProcess.start({ webSocket: true })
    await publish(broker)
    expect(await whatAPageReads(broker, origin(), '127.0.0.1')).toBe('refused')
    expect(await whatAPageReads(broker, 'http://evil.example', 'localhost')).toBe('refused')
    await broker.program.until((stdout) =>
      /pages of http:\/\/evil\.example .*see allowed_origins/.test(stdout),
    )
    const listing = await BrokerProcess.start({ webSocket: true, words: allowing('http://good.example') })
    await publish(listing)
    expect(await whatAPageReads(listing, 'http://evil.example', 'localhost')).toBe('refused')
    expect(await whatAPageReads(listing, 'http://good.example', 'localhost')).toBe('home/alarm/code 4711')
  })

  test('read nothing under a name that was made to point to this machine [field-D22]', async () => {
    const broker = await BrokerProcess.start({ webSocket: true })
    await publish(broker)
    const own = `http://rebound.example:${broker.webSocketPort}`
    expect(await whatAPageReads(broker, own, 'rebound.example')).toBe('refused')
    await broker.program.until((stdout) => stdout.includes("'rebound.example' is not a known name"))
    const same = `http://localhost:${broker.webSocketPort}`
    expect(await whatAPageReads(broker, same, 'localhost')).toBe('home/alarm/code 4711')
  })

  test('may connect once users end anonymous access, and need a password then [field-D22]', async () => {
    const broker = await BrokerProcess.start({ webSocket: true })
    await publish(broker)
    const added = await godwit('user', 'add', 'ada', '--generate', '--data', broker.data)
    expect(added.code).toBe(0)
    expect(await whatAPageReads(broker, 'http://other.example', 'localhost')).toBe('refused')
    await broker.program.until((stdout) => stdout.includes('anonymous clients are not allowed here'))
  })
})

test.each([3, 4, 5])(
  'a page in Chromium with MQTT.js over WebSocket, protocol version %i',
  async (version) => {
    const broker = await BrokerProcess.start({ webSocket: true, words: allowing(origin()) })
    const outside = await MosquittoSub.start(broker.port, ['-q', '1', '-t', 'to/outside'], '%l')
    await mosquittoPub(broker.port, '-q', '1', '-r', '-t', 'page/state', '-m', 'on')
    const page = await browser.newPage()
    await page.goto(origin())
    const url = `ws://127.0.0.1:${broker.webSocketPort}/mqtt`
    const result = page.evaluate(`(${SCRIPT})(${JSON.stringify(url)}, ${version})`)
    expect(await outside.received(1)).toEqual(['200000'])
    await mosquittoPub(broker.port, '-q', '1', '-t', 'page/end', '-m', 'from outside')
    expect(await result).toEqual([
      ['page/state', 'on', 1, true],
      ['page/own/0', 'from the page', 0, false],
      ['page/own/1', 'from the page', 1, false],
      ['page/own/2', 'from the page', 2, false],
      ['page/end', 'from outside', 1, false],
    ])
  },
)

test.each([3, 4, 5])(
  'a page in Chromium, protocol version %i: its Session, its share of the work, its Will',
  async (version) => {
    const broker = await BrokerProcess.start({ webSocket: true, words: allowing(origin()) })
    const watcher = await MosquittoSub.start(broker.port, ['-q', '1', '-t', 'will/#'])
    const page = await browser.newPage()
    await page.goto(origin())
    const url = `ws://127.0.0.1:${broker.webSocketPort}/mqtt`
    const result = page.evaluate(`(${SESSION})(${JSON.stringify(url)}, ${version})`)
    const goOn = await away.promise
    const topics = Array.from({ length: 10 }, (_, number) => `session/${number}`)
    for (const topic of topics) await mosquittoPub(broker.port, '-q', '2', '-t', topic, '-m', 'while away')
    await mosquittoPub(broker.port, '-q', '1', '-t', 'jobs', '-m', 'a job')
    goOn()
    const got = (await result) as string[]
    expect(got.filter((line) => line !== 'jobs a job')).toEqual(topics.map((topic) => `${topic} while away`))
    expect(got).toContain('jobs a job')
    await page.close()
    expect(await watcher.received(1)).toEqual(['will/of/page 1 0 the page was closed'])
  },
)
