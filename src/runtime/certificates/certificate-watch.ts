/**
 * Watches the certificates of a running broker: serves new ones, reports bad ones, and renews those that
 * expire soon.
 */
import type { CertificateStatus } from '../../admin/commands.ts'
import type { Events } from '../../broker/boundary/events.ts'
import type { SecurityKind } from '../../broker/boundary/security.ts'
import type { ListenerUpdate } from '../../transport/listener-set.ts'
import {
  type CertificateTimes,
  dateText,
  daysUntil,
  isValidAt,
  revocationListProblem,
  validityText,
} from '../../transport/tls/certificate-times.ts'
import type { ServedCertificates } from '../../transport/tls/served-certificates.ts'
import { RENEWAL_DAYS, type Renewal } from './renewal.ts'

/** The files are checked this often. */
const CHECK_MS = 1000

/** A certificate is reported once a day from so many days before its end. */
const WARNING_DAYS = 30

/** The pause after a renewal, which may have failed or is not served yet. */
const RENEWAL_PAUSE_MS = 3_600_000

interface Secure {
  readonly listener: string
  readonly certificates: ServedCertificates
  readonly times: CertificateTimes
}

/** Listeners whose certificates are watched. */
export interface CertificateSources {
  readonly open: readonly { readonly name: string; readonly certificates: ServedCertificates | null }[]
  /** Checks whether files of certificates have changed. */
  check(nowMs: number): Promise<ListenerUpdate[]>
  /** Reads all certificates again at once. */
  reread(nowMs: number): Promise<ListenerUpdate[]>
}

/** Returns the listeners of both. */
export function together(one: CertificateSources, other: CertificateSources): CertificateSources {
  return {
    get open() {
      return [...one.open, ...other.open]
    },
    check: async (nowMs) => [...(await one.check(nowMs)), ...(await other.check(nowMs))],
    reread: async (nowMs) => [...(await one.reread(nowMs)), ...(await other.reread(nowMs))],
  }
}

/** Checks the certificates of all listeners once a second and reports events as `security`. */
export class CertificateWatch {
  readonly #listeners: CertificateSources
  readonly #events: Events
  readonly #renewal: Renewal | null
  readonly #timer: NodeJS.Timeout
  /** The number of days in the latest warning, by listener and kind of warning. */
  readonly #told = new Map<string, number>()
  #renewedAtMs = Number.NEGATIVE_INFINITY
  #isChecking = false

  /** `renewal` is null if nothing is to be renewed. */
  constructor(listeners: CertificateSources, events: Events, renewal: Renewal | null) {
    this.#listeners = listeners
    this.#events = events
    this.#renewal = renewal
    this.#timer = setInterval(() => void this.#check(), CHECK_MS).unref()
  }

  /** Returns the days until the certificate of each listener expires. */
  daysLeft(): Record<string, number> {
    const nowMs = Date.now()
    return Object.fromEntries(
      this.#tlsListeners().map(({ listener, times }) => [listener, daysUntil(times.validTo, nowMs)]),
    )
  }

  status(nowMs: number): CertificateStatus[] {
    return this.#tlsListeners().map(({ listener, certificates, times }) => ({
      listener,
      validFrom: new Date(times.validFrom).toISOString(),
      validTo: new Date(times.validTo).toISOString(),
      detail: [validityText(times, nowMs), revocationListProblem(times, nowMs)].filter(Boolean).join('; '),
      renewed: this.#renewal?.covers(certificates.certificateFiles) === true,
    }))
  }

  /** Reads all files again at once and repeats all warnings. */
  async reread(): Promise<void> {
    this.tell(await this.#listeners.reread(Date.now()))
    this.#told.clear()
    this.#warn(Date.now())
  }

  /** Reports the news of the listeners. */
  tell(news: readonly ListenerUpdate[]): void {
    for (const one of news) this.#tell(one)
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** Checks all files. Never rejects. */
  async #check(): Promise<void> {
    // A file system that hangs must not be asked again and again.
    if (this.#isChecking) return
    this.#isChecking = true
    try {
      this.tell(await this.#listeners.check(Date.now()))
      await this.#renew(Date.now())
      this.#warn(Date.now())
    } finally {
      this.#isChecking = false
    }
  }

  #tell(news: ListenerUpdate): void {
    const { listener } = news
    if (news.change === 'swapped') {
      for (const key of this.#told.keys()) if (key.endsWith(` ${listener}`)) this.#told.delete(key)
      this.#emit('certificate-loaded', listener, 'served to new connections')
    } else {
      const detail = `${news.problem}; the old certificates stay. ${news.advice}`
      this.#emit('certificate-refused', listener, detail)
    }
  }

  /** Renews certificates that are due. The next checks find the new files and serve them. */
  async #renew(nowMs: number): Promise<void> {
    const renewal = this.#renewal
    if (renewal === null || Math.abs(nowMs - this.#renewedAtMs) < RENEWAL_PAUSE_MS) return
    const due = this.#tlsListeners().filter(
      ({ times }) => daysUntil(times.validTo, nowMs) < RENEWAL_DAYS || !isValidAt(times, nowMs),
    )
    const files = new Set(due.flatMap(({ certificates }) => certificates.certificateFiles))
    if (files.size === 0) return
    this.#renewedAtMs = nowMs
    for (const one of await renewal.renew([...files], nowMs)) {
      if ('problem' in one) {
        const detail = `it could not be renewed: ${one.problem}; the next attempt is in an hour`
        this.#emit('certificate-expiring', one.file, detail)
      } else {
        this.#emit(
          'certificate-renewed',
          one.file,
          `valid until ${dateText(Date.parse(one.until))}, for the same key and names`,
        )
      }
    }
  }

  #warn(nowMs: number): void {
    for (const { listener, certificates, times } of this.#tlsListeners()) {
      const days = daysUntil(times.validTo, nowMs)
      if (days < WARNING_DAYS || nowMs < times.validFrom) {
        const state =
          days < 0
            ? `expired ${-days} days ago: clients have refused it since ${dateText(times.validTo)}`
            : isValidAt(times, nowMs)
              ? `expires in ${days} days`
              : validityText(times, nowMs)
        const files = certificates.certificateFiles
        const how =
          this.#renewal?.covers(files) === true
            ? 'the broker renews it'
            : '`godwit setup --renew` makes a new one if setup made it'
        this.#warnOnce('certificate', listener, days, `the certificate ${state}; ${how}`)
      }
      const list = revocationListProblem(times, nowMs)
      if (list !== null) this.#warnOnce('list', listener, daysUntil(times.listEnd!.endMs, nowMs), list)
    }
  }

  /** Reports a warning at most once for each number of days. */
  #warnOnce(what: string, listener: string, days: number, detail: string): void {
    const key = `${what} ${listener}`
    if (this.#told.get(key) === days) return
    this.#told.set(key, days)
    this.#emit('certificate-expiring', listener, detail)
  }

  #tlsListeners(): Secure[] {
    return this.#listeners.open.flatMap(({ name, certificates }) =>
      certificates === null ? [] : [{ listener: name, certificates, times: certificates.times }],
    )
  }

  #emit(kind: SecurityKind & `certificate-${string}`, subject: string, detail: string): void {
    this.#events.emit('security', { kind, subject, by: 'broker', detail })
  }
}
