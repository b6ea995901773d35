/** Watches the event loop and garbage collection. Starts when it is first asked. */
import { PerformanceObserver, performance } from 'node:perf_hooks'
import { Histogram } from '../structures/histogram.ts'

/** A pause of the event loop that is at least so long is always seen; ten timers a second cost little. */
const SAMPLE_MS = 100

/** Measures of the process since the first scrape, and those that Node keeps anyway. */
export interface ProcessFigures {
  readonly cpuSeconds: Readonly<Record<'user' | 'system', number>>
  readonly heapUsedBytes: number
  readonly heapBytes: number
  readonly externalBytes: number
  readonly loopActiveSeconds: number
  readonly loopDelay: Histogram
  readonly collections: Histogram
}

/** Watches the process while the HTTP listener is open. */
export class ProcessWatch {
  readonly #loopDelay = new Histogram()
  readonly #collections = new Histogram()
  #timer: NodeJS.Timeout | null = null
  #observer: PerformanceObserver | null = null
  #dueMs = 0

  read(): ProcessFigures {
    if (this.#timer === null) this.#start()
    const { user, system } = process.cpuUsage()
    const { heapUsed, heapTotal, external } = process.memoryUsage()
    return {
      cpuSeconds: { user: user / 1e6, system: system / 1e6 },
      heapUsedBytes: heapUsed,
      heapBytes: heapTotal,
      externalBytes: external,
      loopActiveSeconds: performance.eventLoopUtilization().active / 1000,
      loopDelay: this.#loopDelay,
      collections: this.#collections,
    }
  }

  /** Idempotent. */
  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#observer?.disconnect()
    this.#timer = null
    this.#observer = null
  }

  #start(): void {
    this.#dueMs = performance.now() + SAMPLE_MS
    this.#timer = setInterval(() => {
      const now = performance.now()
      this.#loopDelay.add(Math.max(0, now - this.#dueMs))
      this.#dueMs = now + SAMPLE_MS
    }, SAMPLE_MS).unref()
    this.#observer = new PerformanceObserver((list) => {
      for (const { duration } of list.getEntries()) this.#collections.add(duration)
    })
    this.#observer.observe({ entryTypes: ['gc'] })
  }
}
