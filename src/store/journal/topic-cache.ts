/** Topics of bodies that are read back from disk. */
import { Topic } from '../../mqtt/message.ts'

/** A bounded table of topics, so that bodies that are read back together share them. */
export class TopicCache {
  readonly #topics = new Map<string, Topic>()
  readonly #topicsMax: number

  constructor(topicsMax: number) {
    this.#topicsMax = topicsMax
  }

  topic(name: string): Topic {
    const known = this.#topics.get(name)
    if (known !== undefined) return known
    if (this.#topics.size >= this.#topicsMax) this.#topics.clear()
    const topic = new Topic(name)
    this.#topics.set(name, topic)
    return topic
  }
}
