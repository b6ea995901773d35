import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { cleanUp, Program, ROOT } from '../e2e/process.ts'

const seed = Number(process.env.GODWIT_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31))

afterEach(cleanUp)

/** Runs `npm run crash` with these words. Resolves with its exit code and its output, which it also shows. */
async function crash(...words: string[]): Promise<{ code: number | null; said: string }> {
  const script = join(ROOT, 'scripts', 'crash', 'crash.mjs')
  const { code, stdout, stderr } = await new Program(process.execPath, [
    script,
    '--seed',
    `${seed}`,
    // A machine that is busy with other tests may be silent for long.
    '--idle-seconds',
    '60',
    ...words,
  ]).ended
  console.log(`GODWIT_TEST_SEED=${seed}\n${stdout}${stderr}`)
  return { code, said: stdout }
}

describe('acknowledged messages are kept, and QoS 2 messages arrive once', { timeout: 600_000 }, () => {
  test('over kills at random instants', async () => {
    const { code, said } = await crash('--runs', '2', '--kills', '10', '--load', 'usual')
    expect(said).toMatch(/^verdict: godwit kept what it acknowledged/m)
    expect(code).toBe(0)
  })

  test.each(['lagging', 'full'])('with long queues that grow and shrink: %s [field-A1]', async (load) => {
    const { code, said } = await crash('--runs', '1', '--kills', '5', '--load', load, '--limits', 'tight')
    expect(said).toMatch(/^verdict: godwit kept what it acknowledged/m)
    expect(code).toBe(0)
  })

  test('over power cuts that lose all data that was not synced', async () => {
    const { code, said } = await crash('--runs', '2', '--kills', '5', '--power-cuts')
    expect(said).toMatch(/^verdict: godwit kept what it acknowledged/m)
    expect(code).toBe(0)
  })

  test('while the disk is full, or fails, and after it', async () => {
    const { code, said } = await crash('--runs', '2', '--kills', '4', '--disk-errors')
    expect(said).toMatch(/^verdict: godwit kept what it acknowledged/m)
    expect(code).toBe(0)
  })

  test.each([
    ['kills', []],
    ['power cuts', ['--power-cuts']],
    ['errors of the disk', ['--disk-errors']],
  ])('of queues, too: over %s', async (_name, words) => {
    const { code, said } = await crash(
      '--queues',
      '--runs',
      '1',
      '--kills',
      '4',
      '--limits',
      'tight',
      ...words,
    )
    expect(said).toMatch(/^verdict: godwit kept what it acknowledged/m)
    expect(code).toBe(0)
  })

  test('in backups of the running broker, too', async () => {
    const { code, said } = await crash('--runs', '1', '--kills', '6', '--backups')
    expect(said).toMatch(/^verdict: godwit kept what it acknowledged/m)
    expect(code).toBe(0)
  })

  test('with `durability: interval`, up to the interval before a power cut [field-E30]', async () => {
    const { code, said } = await crash('--interval', '--runs', '4')
    expect(said).toMatch(/^verdict: interval kept its promise/m)
    expect(code).toBe(0)
  })

  test('and no acknowledgement is sent before the sync of its commit', async () => {
    const { code, said } = await crash('--order')
    expect(said).toMatch(/synced 40 of 40 messages/)
    expect(code).toBe(0)
  })
})

// `npm run crash -- --mutants` has more of them, of which some take minutes.
describe('a broker that is wrong on purpose is caught', { timeout: 600_000 }, () => {
  test.each([
    'acknowledges before the commit',
    'forgets the inbound identifier',
    'loses the tail of a queue',
    'does not sync what it commits',
    'takes a failed commit for a success',
  ])('it %s', async (name) => {
    const { code, said } = await crash('--mutants', '--only', name, '--kills', '6')
    expect(said).toMatch(/^verdict: 1 of 1 mutants were caught/m)
    expect(code).toBe(0)
  })

  test('it does not sync, as the trace shows', async () => {
    const { code, said } = await crash('--order', '--durability', 'os')
    expect(said).toMatch(/synced 0 of 40 messages/)
    expect(code).toBe(1)
  })
})
