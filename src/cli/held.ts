/** `godwit client|session|subscription|retained list|show|delete|kick`: what a running broker holds. */
import { ask } from '../admin/control-client.ts'
import type { HeldCommand } from './arguments.ts'

/** Asks the broker of this data directory. Throws ControlError. */
export async function held(directory: string, command: HeldCommand): Promise<string> {
  const { kind, verb, words, topic, client, user, limit, after } = command
  return JSON.stringify(await ask(directory, `${kind} ${verb}`, { words, topic, client, user, limit, after }))
}
