/**
 * The dispatch `exclusive`: one member is active, the others stand by. It stays active until it is away or
 * gone, so one that comes back stands by.
 */
import type { Entry, Member } from '../state/consumer.ts'
import type { Dispatch, DispatchContext } from './dispatch.ts'

export class Exclusive implements Dispatch {
  readonly isStrict = true
  readonly needsMessages = false
  readonly bytesHeld = 0
  readonly #context: DispatchContext
  #active: Member | null = null

  constructor(context: DispatchContext) {
    this.#context = context
  }

  get active(): Member | null {
    return this.#active
  }

  get hasOpen(): boolean {
    return this.#active?.isOpen === true
  }

  present(member: Member): void {
    const active = this.#active
    if (active === null || !isPresent(active)) this.#active = this.#first()
    this.#stand(member)
    if (active !== this.#active && this.#active !== null) this.#stand(this.#active)
  }

  #first(): Member | null {
    for (const member of this.#context.members) if (isPresent(member)) return member
    return null
  }

  #stand(member: Member): void {
    const isStandby = member !== this.#active
    if (member.isStandby === isStandby) return
    member.isStandby = isStandby
    this.#context.refresh(member)
  }

  open(): void {}

  close(): void {}

  loadChanged(): void {}

  pick(entry: Entry): Member | null {
    const active = this.#active
    return active?.isOpen === true && !entry.isBlockedFor(active) ? active : null
  }

  admit(): boolean {
    return true
  }

  keep(): boolean {
    return false
  }

  given(): void {}

  returned(): void {}

  left(): void {}
}

function isPresent(member: Member): boolean {
  return member.isOnline && !member.isClosing && !member.isGone
}
