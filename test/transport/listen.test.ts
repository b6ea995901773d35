import { afterEach, describe, expect, test } from 'vitest'
import { listenAll } from '../../src/transport/listen.ts'
import type { Listener, ListenerOptions } from '../../src/transport/listener/listener.ts'
import { Recorder } from './recorder.ts'

const LIMITS = { connectTimeoutSeconds: 10 }
const tcp = (name: string, more: Partial<ListenerOptions> = {}): ListenerOptions => ({
  name,
  type: 'tcp',
  port: 0,
  allowAnonymous: true,
  ...more,
})

let open: Listener[] = []

afterEach(async () => {
  await Promise.all(open.map((listener) => listener.close()))
  open = []
})

describe('listenAll', () => {
  test('leaves out optional listeners whose addresses are missing', async () => {
    open = await listenAll(
      [tcp('a'), tcp('b', { host: '192.0.2.1', optional: true }), tcp('c')],
      new Recorder(),
      LIMITS,
    )
    expect(open.map((listener) => listener.name)).toEqual(['a', 'c'])
  })

  test('closes all listeners if one fails', async () => {
    open = await listenAll([tcp('a')], new Recorder(), LIMITS)
    const [first] = open
    await first!.close()
    const failing = [tcp('a', { port: first!.port }), tcp('b', { host: '192.0.2.1' })]
    await expect(listenAll(failing, new Recorder(), LIMITS)).rejects.toThrow(/listener 'b'/)
    open = await listenAll([tcp('again', { port: first!.port })], new Recorder(), LIMITS)
  })
})
