/**
 * The tokens in tags, by which messages are acknowledged with a PUBLISH. They are not kept anywhere, but made
 * again from a secret of the queue: so each tag that was ever given out is known, over restarts, too, and no
 * other one can be made.
 */
import type { Tag } from './tag.ts'

/** Characters of a token that prove it: 48 bits. */
const PROOF_CHARACTERS = 8

/** The part of the process that makes secrets. */
interface Randomness {
  randomId(): string
  /** HMAC-SHA256. */
  keyedHash(key: string, text: string): Buffer
}

/** Characters that tell the starts of the Server apart. */
const START_CHARACTERS = 4

export class TagKey {
  readonly #host: Randomness
  readonly #secret: string
  /**
   * Part of the tokens of hand-outs that the store does not know: after a crash their numbers may be given
   * out again.
   */
  readonly #start: string

  /** `secret` is the queue's. Another one of these is made after each start. */
  constructor(host: Randomness, secret: string) {
    this.#host = host
    this.#secret = secret
    this.#start = host.randomId().slice(-START_CHARACTERS)
  }

  /** Returns the token of a hand-out. `isStored`: no other one will have this number, whatever happens. */
  token(lane: number, sequence: number, attempt: number, isStored: boolean): string {
    const start = isStored ? '' : this.#start
    return this.#proof(lane, sequence, attempt, start) + start
  }

  /** Whether this queue gave out the tag at any time. */
  isOwn({ lane, sequence, attempt, token }: Tag): boolean {
    const proof = this.#proof(lane, sequence, attempt, token.slice(PROOF_CHARACTERS))
    return token.length >= PROOF_CHARACTERS && isSame(token, proof)
  }

  #proof(lane: number, sequence: number, attempt: number, start: string): string {
    return this.#host
      .keyedHash(this.#secret, `${lane}.${sequence}.${attempt}.${start}`)
      .toString('base64url')
      .slice(0, PROOF_CHARACTERS)
  }
}

/** Compares the proof at the beginning of a token in a time that does not depend on where they differ. */
function isSame(token: string, proof: string): boolean {
  let difference = 0
  for (let at = 0; at < PROOF_CHARACTERS; at++) difference |= token.charCodeAt(at) ^ proof.charCodeAt(at)
  return difference === 0
}
