/** Reads the text format of Prometheus strictly, and throws at the first line that breaks its rules. */

export interface Sample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

export interface ParsedFamily {
  readonly name: string
  readonly type: string
  readonly help: string
  readonly samples: Sample[]
}

const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/
const LABEL = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\["\\n])*)"(?:,|$)/

export function parseExposition(text: string): Map<string, ParsedFamily> {
  if (!text.endsWith('\n')) throw new Error('the last line does not end')
  const families = new Map<string, ParsedFamily>()
  let family: ParsedFamily | null = null
  let help: readonly [string, string] | null = null
  for (const line of text.slice(0, -1).split('\n')) {
    const comment = /^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$/.exec(line)
    if (comment?.[1] === 'HELP') {
      help = [comment[2]!, comment[3]!]
    } else if (comment !== null) {
      const [, , name = '', type = ''] = comment
      if (help?.[0] !== name || families.has(name)) throw new Error(`out of order: ${line}`)
      if (!['counter', 'gauge', 'histogram'].includes(type)) throw new Error(`no such type: ${line}`)
      family = { name, type, help: help[1], samples: [] }
      families.set(name, family)
    } else {
      addSample(family, line)
    }
  }
  for (const one of families.values()) if (one.type === 'histogram') checkHistogram(one)
  return families
}

function addSample(family: ParsedFamily | null, line: string): void {
  const [, name, labels = '', value] = SAMPLE.exec(line) ?? []
  if (family === null || name === undefined || value === undefined) throw new Error(`no sample: ${line}`)
  const suffix = name.slice(family.name.length)
  const suffixes = family.type === 'histogram' ? ['_bucket', '_sum', '_count'] : ['']
  if (!name.startsWith(family.name) || !suffixes.includes(suffix))
    throw new Error(`not of ${family.name}: ${line}`)
  const number = value === '+Inf' ? Number.POSITIVE_INFINITY : Number(value)
  if (Number.isNaN(number)) throw new Error(`no number: ${line}`)
  const sample = { name, labels: labelsOf(labels, line), value: number }
  const same = (one: Sample): boolean =>
    one.name === name && JSON.stringify(one.labels) === JSON.stringify(sample.labels)
  if (family.samples.some(same)) throw new Error(`twice: ${line}`)
  family.samples.push(sample)
}

function labelsOf(text: string, line: string): Record<string, string> {
  const labels: Record<string, string> = {}
  for (let rest = text; rest !== ''; ) {
    const [whole, name, value] = LABEL.exec(rest) ?? []
    if (whole === undefined || name === undefined || value === undefined) throw new Error(`no label: ${line}`)
    labels[name] = value.replace(/\\(.)/g, (_, char: string) => (char === 'n' ? '\n' : char))
    rest = rest.slice(whole.length)
  }
  return labels
}

/** Each set of labels beside `le` is a histogram of its own. */
function checkHistogram({ name, samples }: ParsedFamily): void {
  const keyOf = ({ labels: { le, ...others } }: Sample): string => JSON.stringify(others)
  for (const key of new Set(samples.map(keyOf))) {
    const own = samples.filter((one) => keyOf(one) === key)
    const buckets = own.filter((one) => one.name === `${name}_bucket`)
    const bounds = buckets.map(({ labels: { le } }) =>
      le === '+Inf' ? Number.POSITIVE_INFINITY : Number(le),
    )
    const counts = buckets.map(({ value }) => value)
    const count = own.find((one) => one.name === `${name}_count`)?.value
    const isWhole = bounds.at(-1) === Number.POSITIVE_INFINITY && counts.at(-1) === count
    if (!isSorted(bounds) || !isSorted(counts) || !isWhole) throw new Error(`no histogram: ${name}`)
  }
}

function isSorted(all: readonly number[]): boolean {
  return all.every((one, at) => at === 0 || all[at - 1]! <= one)
}
