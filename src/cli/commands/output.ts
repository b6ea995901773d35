/** Where the commands write to. */

/** `write` returns false when it has had enough until `drain`. */
export interface Output {
  write(text: string): unknown
  once?(event: 'drain' | 'close', callback: () => void): unknown
}

/** Resolves when the output has taken the text, however long its reader takes; the process may end then. */
export async function written(output: Output, text: string): Promise<void> {
  if (output.write(text) !== false || output.once === undefined) return
  await new Promise<void>((settle) => {
    output.once?.('drain', settle)
    output.once?.('close', settle)
  })
}
