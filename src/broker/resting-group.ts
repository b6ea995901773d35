/** PURE. The group of a queue while queues are not enabled: it stays as the store had it. */
import type { GroupState, RecoveredGroup } from '../store/log-store.ts'

export function restingGroup(group: RecoveredGroup): GroupState {
  const { lanes, returned, held, remembered, rememberedHead, counters } = group
  return {
    lanes,
    returned: () => returned,
    held: () => held,
    rememberedHead,
    rememberedTail: rememberedHead + remembered.length,
    remembered: (from, to) => remembered.slice(from - rememberedHead, to - rememberedHead),
    counters,
  }
}
