/** The machine's own clock: how long it has been up, which no correction of the wall clock changes. */
import { readFileSync } from 'node:fs'
import { uptime } from 'node:os'
import type { BootTime } from '../store/store.ts'

const BOOT_ID = '/proc/sys/kernel/random/boot_id'
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n?$/
/** How old the distance to the monotonic clock may be: asking the machine costs a file, and it changes in sleep alone. */
const REFRESH_MS = 1000

/** Returns a clock to be asked often. It answers null where the machine does not name its starts: elsewhere than on Linux. */
export function bootClock(): () => BootTime | null {
  const bootId = readBootId()
  if (bootId === null) return () => null
  let refreshedAt = Number.NEGATIVE_INFINITY
  let distance = 0
  return () => {
    const now = performance.now()
    if (now - refreshedAt >= REFRESH_MS) {
      distance = sinceBoot() - now
      refreshedAt = now
    }
    return { bootId, sinceBoot: now + distance }
  }
}

/** A container may be told how long it has been up itself, which is less than the monotonic clock of the machine says. */
function sinceBoot(): number {
  const [seconds, nanoseconds] = process.hrtime()
  return Math.max(uptime() * 1000, seconds * 1000 + nanoseconds / 1e6)
}

function readBootId(): string | null {
  let text: string
  try {
    text = readFileSync(BOOT_ID, 'latin1')
  } catch {
    return null
  }
  return UUID.test(text) ? text.trim().replaceAll('-', '') : null
}
