/**
 * PURE. Topic names below `$SYS`, where clients may not publish, and the exception for bridges (section
 * 4.7.2).
 */
const SLASH = 0x2f

/** The topic of a bridge's state, which a bridge sets by PUBLISH and by its Will; NAME is one level. */
const BRIDGE_STATE = /^\$SYS\/broker\/connection\/[^/]+\/state$/

/** Whether only the Server publishes to this topic: all of `$SYS` except the states of bridges. */
export function isServerTopic(topic: string): boolean {
  if (!topic.startsWith('$SYS')) return false
  return (topic.length === 4 || topic.charCodeAt(4) === SLASH) && !isBridgeState(topic)
}

/**
 * Whether it is `$SYS/broker/connection/NAME/state`, the topic that Mosquitto's bridges use for their state.
 */
export function isBridgeState(topic: string): boolean {
  return BRIDGE_STATE.test(topic)
}
