/**
 * Sends the same well-formed packets to Godwit and Mosquitto in lock step, and compares answers and
 * deliveries.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { cleanUp } from '../e2e/process.ts'
import { Random } from '../fuzz/random.ts'
import { shorter, shrunk, type Target } from '../fuzz/target.ts'
import { matches } from '../fuzz/topics.ts'
import { startGodwit, startMosquitto } from './brokers.ts'
import { type Difference, RULES, type Rule } from './differences.ts'
import { CLIENTS, type Course, course, Side, type Step } from './sequence.ts'

const SEED = Number(process.env.DIFFERENTIAL_SEED ?? 1)
const COURSES = Number(process.env.DIFFERENTIAL_COURSES ?? 40)

let ports: { readonly godwit: number; readonly mosquitto: number }
let courses = 0

beforeAll(async () => {
  ports = { godwit: await startGodwit(), mosquitto: await startMosquitto() }
})

afterAll(cleanUp)

interface Filter {
  readonly options: string
  readonly replaced: boolean
}

/** A client's Subscriptions and version, as far as the rules need them. */
class Known {
  readonly #filters: Map<string, Filter>[] = Array.from({ length: CLIENTS }, () => new Map())
  readonly #versions: number[] = Array.from({ length: CLIENTS }, () => 4)
  readonly #wills: (string | null)[] = Array.from({ length: CLIENTS }, () => null)
  readonly takenWills: string[] = []

  take(step: Step): void {
    const filters = this.#filters[step.who]!
    if (step.do === 'vanish' || (step.do === 'send' && step.packet.type === 'disconnect'))
      this.#wills[step.who] = null
    if (step.do === 'connect') {
      const old = this.#wills[step.who]
      if (old !== null && old !== undefined) this.takenWills.push(old)
      this.#versions[step.who] = step.packet.version
      this.#wills[step.who] = step.packet.will?.topic ?? null
      if (step.packet.clean) filters.clear()
    }
    if (step.do !== 'send') return
    if (step.packet.type === 'unsubscribe') for (const filter of step.packet.filters) filters.delete(filter)
    if (step.packet.type !== 'subscribe') return
    for (const { filter, noLocal, retainAsPublished } of step.packet.requests) {
      const options = `${noLocal} ${retainAsPublished}`
      const before = filters.get(filter)
      const replaced = before !== undefined && (before.replaced || before.options !== options)
      filters.set(filter, { options, replaced })
    }
  }

  version(who: number): number {
    return this.#versions[who]!
  }

  /** The Subscriptions that match what the step publishes. */
  matching(who: number, step: Step): Filter[] {
    const topic =
      step.do === 'send' && step.packet.type === 'publish' ? step.packet.topic : this.#wills[step.who]
    if (topic === null || topic === undefined) return []
    return [...this.#filters[who]!].flatMap(([filter, known]) => (matches(filter, topic) ? [known] : []))
  }
}

/** Runs a course to its end, or to the first difference. Throws if no rule explains that. */
async function compared({ steps }: Course): Promise<Rule | null> {
  const prefix = `x${++courses}/`
  const sides = [
    new Side('godwit', ports.godwit, prefix),
    new Side('mosquitto', ports.mosquitto, prefix),
  ] as const
  const known = new Known()
  try {
    for (const [at, step] of steps.entries()) {
      const [godwit, mosquitto] = await Promise.all([sides[0].run(step), sides[1].run(step)])
      const before = Array.from({ length: CLIENTS }, (_, who) => known.matching(who, step))
      known.take(step)
      for (let who = 0; who < CLIENTS; who++) {
        const [ours, theirs] = without(godwit[who]!, mosquitto[who]!)
        if (ours.length === 0 && theirs.length === 0) continue
        const filters = [...before[who]!, ...known.matching(who, step)]
        const difference: Difference = {
          step,
          version: known.version(who),
          own: who === step.who,
          godwit: ours,
          mosquitto: theirs,
          matching: Math.max(before[who]!.length, known.matching(who, step).length),
          takenWills: known.takenWills,
          replaced: filters.some(({ replaced }) => replaced),
        }
        const rule = RULES.find((each) => each.applies(difference))
        if (rule?.goesOn === true) continue
        if (rule !== undefined) return rule
        throw new Error(`step ${at}, client ${who}: ${JSON.stringify(difference, null, 1)}`)
      }
    }
    return null
  } finally {
    await Promise.all(sides.map((side) => side.close()))
  }
}

/** Both without the lines that both have. */
function without(ours: readonly string[], theirs: readonly string[]): [string[], string[]] {
  const left = [...theirs]
  const only = ours.filter((line) => {
    const at = left.indexOf(line)
    if (at !== -1) left.splice(at, 1)
    return at === -1
  })
  return [only.sort(), left.sort()]
}

const target: Target<Course> = {
  name: 'mosquitto',
  unit: 'courses',
  make: course,
  run: async (input) => (await compared(input))?.name ?? 'same',
  *smaller(input) {
    for (const steps of shorter(input.steps)) yield { ...input, steps }
  },
  write: (input) => input,
  read: (json: Course) => json,
}

const SAME = 'courses of well-formed packets end alike, or in a difference that the standard explains'

test(`${COURSES} ${SAME}, DIFFERENTIAL_SEED=${SEED}`, async () => {
  const random = new Random(SEED)
  const counts: Record<string, number> = {}
  for (let n = 0; n < COURSES; n++) {
    const input = target.make(random, [])
    let outcome: string
    try {
      outcome = await target.run(input)
    } catch (error) {
      if (process.env.DIFFERENTIAL_ALL) {
        console.log(String(error).replaceAll(/\n */g, ' '))
        continue
      }
      const small = await shrunk(target, input, 150)
      const wrong = await Promise.resolve(target.run(small)).then(String, String)
      throw new Error(`${wrong}\n${JSON.stringify(small)}`, { cause: error })
    }
    counts[outcome] = (counts[outcome] ?? 0) + 1
  }
  console.log(`the same, or ended by a rule: ${JSON.stringify(counts)}`)
  expect(counts.same).toBeGreaterThan(0)
})
