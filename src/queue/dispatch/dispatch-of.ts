/** The table of dispatches. */
import type { Message } from '../../mqtt/message.ts'
import type { Dispatch, DispatchContext } from './dispatch.ts'
import { Exclusive } from './exclusive.ts'
import { Fair } from './fair.ts'
import { ByKey } from './key.ts'

/** The properties of a queue that choose its dispatch. */
export interface DispatchRules {
  readonly dispatch: 'fair' | 'key' | 'exclusive'
  readonly keyWindow: number
}

/** `keyOf` returns the key of a message. */
export function dispatchOf(
  { dispatch, keyWindow }: DispatchRules,
  context: DispatchContext,
  keyOf: (message: Message) => string,
): Dispatch {
  switch (dispatch) {
    case 'fair':
      return new Fair()
    case 'key':
      return new ByKey(context, keyOf, keyWindow)
    case 'exclusive':
      return new Exclusive(context)
  }
}
