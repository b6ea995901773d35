/**
 * `mqtt-packet`, loaded while a broker starts, or with the first packet that needs it: AUTH, a DISCONNECT with a reason, and
 * answers that are not written directly. With what it requires (`bl`, `readable-stream`, `debug`) it takes 26 ms of processor
 * time and 2 MB, a tenth of a start.
 */
import { createRequire } from 'node:module'

const load = createRequire(import.meta.url)

let loaded: typeof import('mqtt-packet') | undefined

/** The same for every call. */
export function codec(): typeof import('mqtt-packet') {
  if (loaded === undefined) {
    const found = load('mqtt-packet') as typeof import('mqtt-packet')
    // Else it keeps a buffer for each of 65,536 numbers, several megabytes, to save what our packets do not need.
    found.writeToStream.cacheNumbers = false
    loaded = found
  }
  return loaded
}
