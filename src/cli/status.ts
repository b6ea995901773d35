/** `godwit status`: how the running broker is. */
import type { BrokerStatus } from '../admin/commands.ts'
import { ask } from '../admin/control-client.ts'

const MIB = 1024 * 1024

/** Asks the broker of this data directory. Throws ControlError when none answers. */
export async function status(directory: string, asJson: boolean): Promise<string> {
  const answer = (await ask(directory, 'status')) as BrokerStatus
  if (asJson) return JSON.stringify(answer)
  const { health, held, store } = answer
  const lines: readonly (readonly [string, string])[] = [
    ['godwit', `${answer.version}, process ${answer.processId}, up ${duration(answer.uptimeSeconds)}`],
    ['health', health.detail === '' ? health.state : `${health.state}: ${health.detail}`],
    ['listening on', answer.listeners.join(', ')],
    ['data', `${answer.dataDirectory}, durability ${answer.durability}, ${free(answer.freeBytes)}`],
    ['clients', `${answer.clientsConnected} connected, ${held.sessions} Sessions`],
    [
      'messages',
      `${held.queuedMessages} queued, ${held.inFlightMessages} in flight, ${held.retainedMessages} retained`,
    ],
    ['store', `${store.commits} commits, ${mebibytes(store.storedBytes ?? 0)} of messages`],
  ]
  return lines.map(([name, text]) => `${name.padEnd(13)}${text}`).join('\n')
}

function free(bytes: number | null): string {
  return bytes === null ? 'free space unknown' : `${mebibytes(bytes)} free`
}

function mebibytes(bytes: number): string {
  return `${Math.floor(bytes / MIB)} MiB`
}

function duration(seconds: number): string {
  const days = Math.floor(seconds / 86_400)
  const clock = new Date((seconds % 86_400) * 1000).toISOString().slice(11, 19)
  return days === 0 ? clock : `${days} days ${clock}`
}
