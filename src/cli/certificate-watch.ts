/** Watches the certificates of a running broker: new ones are served, bad ones and those that end soon are told. */
import type { Events } from '../broker/events.ts'
import type { SysValue } from '../observe/sys.ts'
import type { ListenerNews, ListenerSet } from '../transport/listener-set.ts'

/** How often the files are looked at. */
const LOOK_MS = 1000

const DAY_MS = 86_400_000

/** From so many days before its end on, a certificate is spoken of once a day. */
const WARNING_DAYS = 30

export class CertificateWatch {
  readonly #listeners: ListenerSet
  readonly #events: Events
  readonly #timer: NodeJS.Timeout
  /** By listener: the number of days that was told last. */
  readonly #told = new Map<string, number>()
  #isLooking = false

  constructor(listeners: ListenerSet, events: Events) {
    this.#listeners = listeners
    this.#events = events
    this.#timer = setInterval(() => void this.#look(), LOOK_MS).unref()
  }

  /** Days to the end of each listener's certificates, for `$SYS`. */
  figures(): SysValue[] {
    return this.#days(Date.now()).map(([listener, days]) => [`certificates/${listener}/days_to_expiry`, days])
  }

  /** Reads all files again, at once. */
  async reread(): Promise<void> {
    this.tell(await this.#listeners.reread(Date.now()))
  }

  /** Tells what the listeners found. */
  tell(news: readonly ListenerNews[]): void {
    for (const one of news) this.#tell(one)
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** Never rejects. */
  async #look(): Promise<void> {
    // A file system that hangs must not be asked again and again.
    if (this.#isLooking) return
    this.#isLooking = true
    try {
      this.tell(await this.#listeners.look(Date.now()))
      this.#warn(Date.now())
    } finally {
      this.#isLooking = false
    }
  }

  #tell(news: ListenerNews): void {
    const { listener } = news
    if (news.change === 'swapped') {
      this.#told.delete(listener)
      this.#emit('certificate-loaded', listener, 'served to clients that connect from now on')
    } else {
      this.#emit('certificate-refused', listener, `${news.problem}; the old ones stay. ${news.advice}`)
    }
  }

  #warn(nowMs: number): void {
    for (const [listener, days] of this.#days(nowMs)) {
      if (days >= WARNING_DAYS || this.#told.get(listener) === days) continue
      this.#told.set(listener, days)
      const end = days < 0 ? `ended ${-days} days ago: clients refuse it` : `ends in ${days} days`
      this.#emit(
        'certificate-expiring',
        listener,
        `the certificate ${end}; \`godwit setup --renew\` makes a new one where setup made it`,
      )
    }
  }

  #days(nowMs: number): (readonly [string, number])[] {
    return this.#listeners.open.flatMap(({ name, certificates }) =>
      certificates === null ? [] : [[name, Math.floor((certificates.validTo - nowMs) / DAY_MS)] as const],
    )
  }

  #emit(
    kind: 'certificate-loaded' | 'certificate-refused' | 'certificate-expiring',
    listener: string,
    detail: string,
  ): void {
    this.#events.emit('security', { kind, subject: listener, by: 'broker', detail })
  }
}
