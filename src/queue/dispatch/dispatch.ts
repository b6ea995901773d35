/**
 * Decides to which consumer a message goes, and whether it may go at all. A further rule is a further file
 * that implements `Dispatch`, and a line in `dispatchOf`.
 */
import type { Message } from '../../mqtt/message.ts'
import type { Entry, Member } from '../state/consumer.ts'

/** A group as its dispatch sees it. */
export interface DispatchContext {
  /** In the order in which they joined. */
  readonly members: Iterable<Member>
  /** A message that waited for its key may be handed out. */
  ready(entry: Entry): void
  /** Whether a member may be chosen has changed: `isStandby` was set. */
  refresh(member: Member): void
}

export interface Dispatch {
  /** Whether there is a member that may be chosen. */
  readonly hasOpen: boolean
  /** Whether a message that came back, or that a member before holds, holds up all that follow. */
  readonly isStrict: boolean
  /** The only member that is given messages; null where several may be, and if there is none. */
  readonly active: Member | null
  /** Whether `admit` has to see every message before it goes. */
  readonly needsMessages: boolean

  /** A member joined or left, or its client connected or disconnected. */
  present(member: Member): void
  /** A member may be chosen from now on. */
  open(member: Member): void
  close(member: Member): void
  /** An open member was given a message, or holds one less. */
  loadChanged(member: Member): void

  /** Returns an open member that may be given this message; null if there is none. */
  pick(entry: Entry): Member | null
  /**
   * Notes the key of a message that is about to be handed out. False if it has to wait: then the dispatch
   * keeps it until it calls `ready`.
   */
  admit(entry: Entry, message: Message): boolean
  /** No member may be given a ready message now. True if the dispatch keeps it until it calls `ready`. */
  keep(entry: Entry): boolean
  given(entry: Entry, member: Member): void
  /** A hand-out to this member is over; the entry may be handed out again. */
  returned(entry: Entry, member: Member): void
  /** The entry is settled or dead. Its state is still the old one. */
  left(entry: Entry): void

  /** Memory that it keeps beside entries and members. */
  readonly bytesHeld: number
}
