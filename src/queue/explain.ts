/** Why nothing moves, in words. */
import type { Core } from './core.ts'
import { heldByOthers } from './hand-out.ts'
import type { Member } from './state/consumer.ts'

/** Consumers that are named one by one. */
const NAMED_MAX = 10

/** Returns sentences without a full stop; none if nothing waits. */
export function explain(core: Core): string[] {
  const { ready, waiting, deferred, moving } = core.states
  const sentences: string[] = []
  if (ready + waiting + deferred + moving === 0) return sentences
  sentences.push(counted(ready, waiting, deferred, moving))
  if (core.isPaused) sentences.push('the queue is paused')
  if (core.members.size === 0) sentences.push('it has no consumer')
  if (core.entries >= core.rules.unsettledMax) {
    sentences.push(`nothing new is handed out: ${core.entries} messages are unsettled, which is the limit`)
  }
  if (core.cap !== null && core.entries >= core.cap.entries) {
    sentences.push(`nothing new is handed out while memory or disk is short: ${core.entries} are unsettled`)
  }
  if (waiting >= core.rules.lookaheadMessagesMax) {
    sentences.push(`${waiting} messages wait for their keys, and it looks no further ahead`)
  }
  if (core.aside.size > 0) {
    sentences.push(`${core.aside.size} ready for another consumer than those that had them already`)
  }
  if (core.dispatch.isStrict && core.deferred.size > 0) {
    sentences.push('what comes next waits for a message that was refused')
  }
  if (core.dispatch.isStrict && heldByOthers(core) > 0) {
    sentences.push(
      'what comes next waits for a message that a consumer before holds, or for the end of its lease',
    )
  }
  let named = 0
  for (const member of core.members) {
    if (member.state === 'open') continue
    if (named++ >= NAMED_MAX) {
      sentences.push('and others')
      break
    }
    sentences.push(`consumer ${member.consumer.clientId} is ${stateInWords(core, member)}`)
  }
  return sentences
}

function counted(ready: number, waiting: number, deferred: number, moving: number): string {
  const parts = [
    [ready, 'ready'],
    [waiting, 'waiting for their key'],
    [deferred, 'deferred'],
    [moving, 'moving to the dead letters'],
  ] as const
  return parts
    .filter(([count]) => count > 0)
    .map(([count, what]) => `${count} ${what}`)
    .join(', ')
}

function stateInWords(core: Core, member: Member): string {
  const { state, inFlight, held, echoes, oldest } = member
  const now = core.context.now()
  switch (state) {
    case 'silent': {
      const sentAt = oldest?.sentAt ?? member.echoList.first?.sentAt
      return `silent: ${inFlight + echoes} unacknowledged${ageInWords(now, sentAt)}`
    }
    case 'paused':
      return `paused for ${Math.ceil((member.pausedUntil - now) / 1000)} s: it had too much`
    case 'full':
      return `full: ${inFlight} unacknowledged, ${held} held, window ${member.window.size}`
    default:
      return state
  }
}

function ageInWords(now: number, sentAt: number | undefined): string {
  if (sentAt === undefined) return ''
  const seconds = Math.round((now - sentAt) / 1000)
  return `, the oldest for ${seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`}`
}
