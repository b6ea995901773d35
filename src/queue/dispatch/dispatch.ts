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
  /** Whether a message that came back holds up all that follow. */
  readonly isStrict: boolean
  /** Whether `admit` has to see every message before it goes. */
  readonly needsMessages: boolean

  /** A member joined, left, came or went. */
  present(member: Member): void
  /** A member may be chosen from now on. */
  open(member: Member): void
  close(member: Member): void
  /** An open member was given a message, or holds one less. */
  loadChanged(member: Member): void

  /** Returns an open member that may be given this message; null if there is none. */
  pick(entry: Entry): Member | null
  /**
   * Takes notice of a message that has no entry yet, or that is known without its key. False if it has to
   * wait: then it is kept here until `ready` is called for it.
   */
  admit(entry: Entry, message: Message): boolean
  /** Nobody may have a message that is ready. True if it is kept here until `ready` is called for it. */
  keep(entry: Entry): boolean
  given(entry: Entry, member: Member): void
  /** A hand-out to this member is over, and the entry perhaps not. */
  returned(entry: Entry, member: Member): void
  /** The entry is settled or dead. Its state is still the old one. */
  left(entry: Entry): void

  /** Memory that it keeps beside entries and members. */
  readonly bytesHeld: number
}
