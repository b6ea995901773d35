/** The page of `/metrics`, made at most once a second however often it is asked for. */
import { exposition } from './exposition.ts'
import type { HttpContext } from './http-context.ts'
import { PAGE_ROWS } from './metric-table.ts'
import type { ProcessWatch } from './process-watch.ts'
import { namedQueues } from './queue-rows.ts'

/** A page is shown for so long. Its cost grows with the Sessions, and scrapers ask far more rarely. */
const PAGE_MS = 1000

/** Makes the page. */
export class MetricsPage {
  readonly #context: HttpContext
  readonly #watch: ProcessWatch
  #text = ''
  #madeAtMs = Number.NEGATIVE_INFINITY

  constructor(context: HttpContext, watch: ProcessWatch) {
    this.#context = context
    this.#watch = watch
  }

  /** Returns the page; null while the broker starts or stops. */
  text(nowMs: number): string | null {
    const { sources, figures } = this.#context
    const moment = nowMs - this.#madeAtMs < PAGE_MS ? null : sources.metrics()
    if (moment === null) return sources.isRunning() ? this.#text : null
    const facts = {
      ...moment,
      queues: namedQueues(moment.queues),
      process: this.#watch.read(),
      http: figures,
      readiness: sources.readiness(),
    }
    this.#text = exposition(PAGE_ROWS.map((row) => ({ ...row, value: row.read(facts) })))
    this.#madeAtMs = nowMs
    return this.#text
  }
}
