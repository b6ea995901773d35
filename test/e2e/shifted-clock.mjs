/**
 * For `node --import`: a machine whose wall clock is wrong, and whose boot id is another one. Both are read
 * from the file that TEST_CLOCK_FILE names, `{"wallMs": how wrong it is, "boot": text}`, the former again
 * each time.
 */
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'

const FILE = process.env.TEST_CLOCK_FILE
const BOOT_ID = '/proc/sys/kernel/random/boot_id'
const { readFileSync } = fs
const { now } = Date

Date.now = () => now() + JSON.parse(readFileSync(FILE, 'utf8')).wallMs

fs.readFileSync = (path, ...rest) => {
  if (path !== BOOT_ID) return readFileSync(path, ...rest)
  const { boot } = JSON.parse(readFileSync(FILE, 'utf8'))
  return `${boot.repeat(8)}-${boot.repeat(4)}-${boot.repeat(4)}-${boot.repeat(4)}-${boot.repeat(12)}\n`
}
syncBuiltinESMExports()
