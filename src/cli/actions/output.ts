/** Writes the output of commands. */

/** A stream for output; `write` returns false to ask for a pause until `drain`. */
export interface Output {
  write(text: string): unknown
  once?(event: 'drain' | 'close', callback: () => void): unknown
}

/** Writes the text and resolves once the output has taken all of it. Only then may the process end. */
export async function writeFully(output: Output, text: string): Promise<void> {
  if (output.write(text) !== false || output.once === undefined) return
  await new Promise<void>((settle) => {
    output.once?.('drain', settle)
    output.once?.('close', settle)
  })
}
