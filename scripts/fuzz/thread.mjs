/** The thread that fuzzes: it runs the targets in turns, by their shares of the time. */
import { Session } from 'node:inspector'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { parentPort, workerData } from 'node:worker_threads'

const { compiled, seed, only, minutes, progress } = workerData

/** Time between two checks of the code that ran; a check takes some milliseconds. */
const BATCH_MS = 500

const { Campaign } = await import(`${compiled}test/fuzz/engine.js`)
const { PLANS } = await import(`${compiled}test/fuzz/targets.js`)

const coverage = workerData.coverage ? await codeThatRan() : null
const plans = PLANS.filter(({ target }) => only === null || only.includes(target.name))
if (plans.length === 0)
  throw new Error(`no such target; there are ${PLANS.map(({ target }) => target.name).join(', ')}`)
const campaigns = plans.map(({ target, long = target, share }) => ({
  campaign: new Campaign(long, seed, coverage),
  share,
  batch: 32,
  seconds: 0,
}))

const startedAt = performance.now()
let heapBytesBefore = 0
let find = null
let settledAt = 0
while (find === null && performance.now() - startedAt < minutes * 60_000) {
  // The next target is the one farthest behind its share.
  const next = campaigns.reduce((a, b) => (b.seconds / b.share < a.seconds / a.share ? b : a))
  report(next.campaign.target.name, false)
  const from = performance.now()
  find = await next.campaign.run(next.batch, () => Atomics.add(progress, 0, 1))
  const ms = performance.now() - from
  next.seconds += ms / 1000
  next.batch = Math.max(16, Math.min(next.batch * 2, Math.round((next.batch * BATCH_MS) / ms)))
  // After a while the corpora are complete, and memory that grows from then on is a leak.
  if (settledAt === 0 && performance.now() - startedAt > Math.min(60_000, minutes * 30_000)) {
    settledAt = performance.now()
    heapBytesBefore = heap()
  }
}
report('', true)

function report(running, end) {
  const targets = campaigns.map(({ campaign, seconds }) => ({
    name: campaign.target.name,
    unit: campaign.target.unit,
    inputs: campaign.inputs,
    kept: campaign.kept,
    reached: campaign.reached,
    summary: campaign.target.summary,
    seconds,
  }))
  const heapBytes = end ? heap() : process.memoryUsage().heapUsed
  const taken = (performance.now() - startedAt) / 60_000
  parentPort?.postMessage({ running, end, targets, find, heapBytes, heapBytesBefore, minutes: taken })
}

function heap() {
  setFlagsFromString('--expose-gc')
  runInNewContext('gc')()
  return process.memoryUsage().heapUsed
}

/** Has V8 count which blocks of our compiled sources ran. */
async function codeThatRan() {
  const session = new Session()
  session.connect()
  const ask = (method, words) => {
    let answer
    session.post(method, words, (error, result) => {
      if (error) throw new Error(error.message)
      answer = result
    })
    return answer
  }
  ask('Profiler.enable')
  ask('Profiler.startPreciseCoverage', { callCount: false, detailed: true })
  const sources = `${compiled}src/`
  return () => {
    const ran = new Set()
    for (const { url, functions } of ask('Profiler.takePreciseCoverage').result) {
      if (!url.startsWith(sources)) continue
      const file = url.slice(sources.length)
      for (const { ranges } of functions) {
        for (const { startOffset, endOffset, count } of ranges) {
          if (count > 0) ran.add(`${file}:${startOffset}-${endOffset}`)
        }
      }
    }
    return ran
  }
}
