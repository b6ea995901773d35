/** Lets V8 inline more, since a PUBLISH goes through many small functions. */
import { setFlagsFromString } from 'node:v8'

/**
 * Bytecode in bytes that V8 may inline into one function (920 by default), and of one inlined function (460).
 * The way of a PUBLISH is longer than the defaults. See note 0098.
 */
const FLAGS = ['--max-inlined-bytecode-size-cumulative=4000', '--max-inlined-bytecode-size=800']

/**
 * Sets this for the whole process, so only the program calls it, not the library. Call it before there is
 * load: code that is compiled already stays as it is.
 */
export function inlineMore(): void {
  for (const flag of FLAGS) setFlagsFromString(flag)
}
