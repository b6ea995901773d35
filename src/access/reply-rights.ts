/**
 * PURE. Rights of reply queues, `$queue/reply.ID`. No source of rights is asked: the queue is there for the
 * client with this Client Identifier, and everybody may answer it.
 */
import {
  isReplyName,
  parseAddress,
  parseSubscription,
  REPLY_PREFIX,
  replyName,
} from '../mqtt/server-topics.ts'
import type { QueueOptions } from '../queue/queue-options.ts'
import type { Decision, Identity, Request } from './decision.ts'

/** The configuration that decides about reply queues. */
export type ReplyRules = Pick<QueueOptions, 'enabled' | 'declare' | 'replyOpen'>

/**
 * Decides about a reply queue. Null if the request is about something else, or the sources of rights decide.
 * The request has the canonical topic or filter.
 */
export function decideReply(
  rules: ReplyRules | null,
  { clientId }: Identity,
  request: Request,
): Decision | null {
  const name = rules?.enabled === true ? nameOf(request) : null
  if (rules === null || name === null || !isReplyName(name)) return null
  if (request.action === 'publish') {
    if (!rules.replyOpen) return null
    return { allow: true, source: 'queues.reply_open', rule: 'every client may publish to reply queues' }
  }
  if (rules.declare === 'operator') {
    return { allow: false, source: 'queues.declare: operator', rule: 'there are no reply queues' }
  }
  const owner = name.slice(REPLY_PREFIX.length)
  const isOwn = replyName(clientId) === name
  const source = 'the broker'
  if (replyName(owner) !== name) return { allow: false, source, rule: `${name} is nobody's reply queue` }
  const rule =
    request.action === 'declare'
      ? `a reply queue is made for the client '${owner}' alone, without the right declare`
      : `a reply queue is consumed by the client '${owner}' alone, without any right`
  return { allow: isOwn, source, rule }
}

/** Returns the name of the queue that a request is about; null if it is about none. */
function nameOf(request: Request): string | null {
  if (request.action === 'receive' || request.action === 'receive all') return null
  if (request.action === 'subscribe') {
    const subscription = parseSubscription(request.filter)
    return subscription?.kind === 'queue' ? subscription.name : null
  }
  const address = parseAddress(request.topic)
  return address?.kind === 'queue' ? address.name : null
}
