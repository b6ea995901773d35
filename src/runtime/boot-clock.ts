/** Reads the time since the machine booted, which corrections of the wall clock do not change. */
import { readFileSync } from 'node:fs'
import { uptime } from 'node:os'
import type { BootTime } from '../store/store.ts'

const BOOT_ID = '/proc/sys/kernel/random/boot_id'
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n?$/
/**
 * The distance to the monotonic clock is measured this often: it only changes in sleep, and measuring costs
 * a file.
 */
const REFRESH_MS = 1000

/**
 * Returns a clock that is cheap to read. It returns null without a boot id, as on systems other than Linux.
 */
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

/**
 * Returns ms since the boot. `uptime` may be that of a container and so less than the machine's monotonic
 * clock.
 */
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
