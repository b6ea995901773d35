/** Runs `godwit ban`, on the running broker or on the file of bans. */
import { type BanCommand, type BanKeeper, type BanView, banCommand } from '../../access/bans/ban-commands.ts'
import { editBans, readBans } from '../../access/bans/bans-file.ts'
import { ask, brokerAnswers, operatorName } from '../../admin/control-client.ts'
import type { Ban, BanKind } from '../../broker/boundary/bans.ts'
import { printable } from '../../observe/printable.ts'
import { makeDirectory } from '../../store/files/data-directory.ts'
import { duration, table } from './table.ts'

/** A command that lists, adds or removes bans. */
export interface BansCommand {
  readonly command: BanCommand
  readonly json: boolean
  /** Null for `list`. */
  readonly kind: BanKind | null
  readonly subject: string | null
  /** Null for a ban without end. */
  readonly seconds: number | null
  readonly reason: string
}

/** The width of a terminal. */
const COLUMNS = 80

/** The length of the longest network. Longer names are shortened; --json shows them in full. */
const SUBJECT_CHARACTERS = 43

/** Runs the command and returns its output. Throws BansError and ControlError. */
export async function changeBans(directory: string, given: BansCommand): Promise<string> {
  const { command, kind, subject, seconds, reason, json } = given
  const parameters = { kind, subject, seconds, reason }
  const isForBroker = await brokerAnswers(directory)
  const { bans } = (
    isForBroker
      ? await ask(directory, command, parameters)
      : await changeFiles(directory, command, parameters)
  ) as { readonly bans: readonly BanView[] }
  if (json) return JSON.stringify(bans)
  if (command === 'ban list') return lines(bans)
  const noun = kind === 'client' ? 'Client Identifier' : kind
  const who = `${noun} ${printable(bans[0]?.subject ?? subject ?? '')}`
  if (command === 'ban remove') return `the ban of ${who} is lifted`
  const { secondsLeft = null } = bans[0] ?? {}
  const time = secondsLeft === null ? 'until it is lifted' : `for ${duration(secondsLeft)}`
  const note = isForBroker
    ? '; its connections have ended'
    : '; no broker runs: the ban takes effect at the next start'
  return `${who} is banned ${time}${note}`
}

async function changeFiles(
  directory: string,
  command: BanCommand,
  parameters: Readonly<Record<string, unknown>>,
): Promise<unknown> {
  const now = Date.now()
  let all = inForce(await readBans(directory), now)
  const edit = async (change: (bans: Ban[]) => Ban[]): Promise<void> => {
    await makeDirectory(directory, 0o700)
    await editBans(directory, (bans) => {
      all = change(inForce(bans, now))
      return all
    })
  }
  const isSame = (one: Ban, kind: string, subject: string): boolean =>
    one.kind === kind && one.subject === subject
  const keeper: BanKeeper = {
    list: () => all,
    add: (ban) => edit((bans) => [...bans.filter((one) => !isSame(one, ban.kind, ban.subject)), ban]),
    remove: async (kind, subject) => {
      if (!all.some((one) => isSame(one, kind, subject))) return false
      await edit((bans) => bans.filter((one) => !isSame(one, kind, subject)))
      return true
    },
  }
  return banCommand(keeper, command, parameters, operatorName(), now)
}

function inForce(bans: readonly Ban[], now: number): Ban[] {
  return bans.filter(({ until }) => until === null || until > now)
}

function lines(bans: readonly BanView[]): string {
  if (bans.length === 0) return 'nobody is banned; to ban somebody: godwit ban add ADDRESS --for 1h'
  const rows = table(
    [
      { title: 'WHAT', value: ({ kind }) => kind },
      { title: 'WHO', value: ({ subject }) => clipped(printable(subject), SUBJECT_CHARACTERS) },
      {
        title: 'LEFT',
        value: ({ secondsLeft }) => (secondsLeft === null ? 'for ever' : duration(secondsLeft)),
      },
      { title: 'BY', value: ({ by, isAutomatic }) => (isAutomatic ? 'automatic' : by) },
      { title: 'REASON', value: ({ reason }) => reason },
    ],
    bans,
  )
  // A reason is cut off rather than wrapped, so that each ban stays on one line.
  return rows.map((row) => clipped(row, COLUMNS)).join('\n')
}

function clipped(text: string, characters: number): string {
  return text.length > characters ? `${text.slice(0, characters - 1)}…` : text
}
