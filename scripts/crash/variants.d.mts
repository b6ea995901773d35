/** A text of the build, by file, and what takes its place. */
export type Edit = readonly [file: string, from: string, to: string]

export interface Variant {
  readonly name: string
  readonly edits: readonly Edit[]
  readonly durability?: string
  /** Of Godwit's command line. */
  readonly words?: readonly string[]
  readonly modes?: Readonly<Record<string, boolean | string>>
}

export const TIGHT: Variant
export const STEPPED: Variant
export const MUTANTS: readonly Variant[]
