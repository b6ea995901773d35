/** Tells whether the Server accepts new work, and if not, why. */
import type { Health } from './boundary/events.ts'
import type { Reliefs } from './memory-guard.ts'
import type { ServerState } from './state/server-state.ts'

/**
 * Returns the worst state that applies: `recovering` while the store is read again, `refusing`, `pressed` or
 * `ok`.
 */
export function healthOf(state: ServerState, reliefs: Reliefs, isRecovering: boolean): Health {
  const { unavailable, store, memoryRefusal } = state
  if (isRecovering) return { state: 'recovering', detail: unavailable ?? 'the store is being read again' }
  const refusal = store.refusal ?? memoryRefusal
  if (refusal !== null) return { state: 'refusing', detail: refusal }
  const { relief, keptRelief, diskRelief } = reliefs
  const all = [relief.pressed, keptRelief.pressed, diskRelief.pressed]
  const pressed = all.filter((text) => text !== null).join('; ')
  return pressed === '' ? { state: 'ok', detail: '' } : { state: 'pressed', detail: pressed }
}
