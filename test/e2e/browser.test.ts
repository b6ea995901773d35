import { readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { type Browser, chromium } from 'playwright-core'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { BrokerProcess, cleanUp, MosquittoSub, mosquittoPub, output, ROOT } from './process.ts'

const FLAGS = [
  ...['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'],
  ...['--disable-background-networking', '--disable-component-update', '--disable-sync'],
]

/** Runs in the page: does everything a page does, and returns what came. */
const SCRIPT = `async (url, protocolVersion) => {
  const client = await mqtt.connectAsync(url, { protocolVersion, reconnectPeriod: 0 })
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

let pages: Server
let browser: Browser

beforeEach(async () => {
  const script = readFileSync(join(ROOT, 'node_modules', 'mqtt', 'dist', 'mqtt.min.js'))
  pages = createServer((request, response) => {
    if (request.url === '/mqtt.js') response.setHeader('content-type', 'text/javascript').end(script)
    else response.setHeader('content-type', 'text/html').end('<script src="/mqtt.js"></script>')
  })
  await new Promise<void>((resolve) => pages.listen(0, '127.0.0.1', resolve))
  const executablePath = (await output('which', 'chromium')).trim()
  browser = await chromium.launch({ executablePath, args: FLAGS })
})

afterEach(async () => {
  await browser.close()
  await new Promise((resolve) => pages.close(resolve))
  await cleanUp()
})

test.each([4, 5])('a page in Chromium with MQTT.js over WebSocket, protocol version %i', async (version) => {
  const broker = await BrokerProcess.start({ webSocket: true })
  const outside = await MosquittoSub.start(broker.port, ['-q', '1', '-t', 'to/outside'], '%l')
  await mosquittoPub(broker.port, '-q', '1', '-r', '-t', 'page/state', '-m', 'on')
  const page = await browser.newPage()
  await page.goto(`http://127.0.0.1:${(pages.address() as AddressInfo).port}/`)
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
})
