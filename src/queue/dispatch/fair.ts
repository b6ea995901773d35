/** The dispatch `fair`: the member that holds least is next. */
import type { Entry, Member } from '../state/consumer.ts'
import type { Dispatch } from './dispatch.ts'
import { Fewest } from './fewest.ts'

export class Fair implements Dispatch {
  readonly isStrict = false
  readonly active = null
  readonly needsMessages = false
  readonly #open = new Fewest()

  get hasOpen(): boolean {
    return this.#open.size > 0
  }

  present(): void {}

  open(member: Member): void {
    this.#open.add(member)
  }

  close(member: Member): void {
    this.#open.remove(member)
  }

  loadChanged(member: Member): void {
    this.#open.update(member)
  }

  pick(entry: Entry): Member | null {
    return this.#open.choose(entry)
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

  get bytesHeld(): number {
    return this.#open.bytesHeld
  }
}
