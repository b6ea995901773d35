/** Examples 28 to 30 of queues: explicit acknowledgement, leases and results. */
import { describe, expect, it } from 'vitest'
import { lasting } from '../harness.ts'
import { acknowledge, put, queue, RESULTS, states, TAGGED, working } from './explicit-world.ts'
import { answer, DiskWorld, inMemory, jobs, lines, puback, publishes } from './queue-world.ts'

describe('explicit acknowledgement', () => {
  it('28: a worker of 3.1.1 that disconnects in between, and its result', async () => {
    const disk = await DiskWorld.make(jobs(RESULTS))
    const c = await disk.connect('c', lasting())
    await c.subscribe('results/#', 1)
    await c.vanish()
    const publisher = await disk.connect('p', {}, 4)
    await publisher.publish('jobs/add/7', '2 3', 1)
    const worker = await disk.connect('w', {}, 4)
    await worker.subscribe(TAGGED, 1)
    const [got] = publishes(worker)
    expect(got!.line).toMatch(/^\$queue\/jobs;ack=explicit\/01\.1\.[\w-]{8,}\/jobs\/add\/7 2 3 1$/)
    await puback(worker, got!.id)
    await worker.vanish()
    expect(states(disk).held).toBe(1)
    const other = await disk.connect('x', {}, 4)
    await other.publish(`$ack/jobs/${got!.line.split('/')[2]}`, '5', 1)
    await disk.settle()
    expect(other.got()).toMatchObject([{ cmd: 'puback' }])
    expect(states(disk).messages).toBe(0)
    await disk.kill()
    expect(states(disk).messages).toBe(0)
    const back = await disk.connect('c', lasting())
    expect(lines(back)).toEqual(['results/jobs/add/7 5 1'])
  })

  it('29: the lease ends, over a kill, too; an old tag still completes', async () => {
    const disk = await DiskWorld.make(jobs())
    await put(disk, 'x')
    const filter = '$queue/jobs;ack=explicit;lease=3/#'
    const { worker, tag } = await working(disk, 'a', filter)
    await worker.vanish()
    await disk.world.pass(1)
    await disk.kill()
    const b = await disk.connect('b')
    await b.subscribe(filter, 1)
    await disk.world.pass(1.9)
    expect(publishes(b)).toEqual([])
    // The retry delay follows.
    await disk.world.pass(1.2)
    const [got] = publishes(b)
    expect(got).toMatchObject({ user: { 'x-delivery-count': '2' } })
    expect(queue(disk).group.look(0, 1)).toMatchObject({ failures: 1 })
    const late = await disk.connect('late')
    expect(await acknowledge(disk, late, `${tag}/retry`)).toBe(0x10)
    expect(await acknowledge(disk, late, `${tag}/dead`)).toBe(0x10)
    expect(await acknowledge(disk, late, `${tag}/extend`)).toBe(0x10)
    expect(states(disk).inFlight).toBe(1)
    expect(await acknowledge(disk, late, tag)).toBe(0)
    expect(states(disk).messages).toBe(0)
    expect(await acknowledge(disk, late, tag)).toBe(0x10)
  })

  it('29: extend', async () => {
    const world = await inMemory(jobs({ retryDelaySeconds: 0 }))
    await put(world, 'x')
    const { worker, tag } = await working(world, 'a', '$queue/jobs;ack=explicit;lease=3/#')
    await world.pass(2)
    expect(await acknowledge(world, worker, `${tag}/extend`, '10')).toBe(0)
    await world.pass(9.9)
    expect(states(world).held).toBe(1)
    await world.pass(0.2)
    expect(states(world).held).toBe(0)
    expect(queue(world).group.look(0, 1)).toMatchObject({ failures: 1 })
    expect(await acknowledge(world, worker, `${tag}/extend`, '10')).toBe(0x10)
  })

  it('extend without a time is the lease again, after a restart, too', async () => {
    const disk = await DiskWorld.make(jobs({ retryDelaySeconds: 0 }))
    await put(disk, 'x')
    const { worker, tag } = await working(disk, 'a', '$queue/jobs;ack=explicit;lease=300/#')
    await worker.vanish()
    await disk.kill()
    const other = await disk.connect('other')
    await disk.world.pass(299)
    expect(await acknowledge(disk, other, `${tag}/extend`)).toBe(0)
    await disk.world.pass(299)
    expect(states(disk).held).toBe(1)
    await disk.world.pass(2)
    expect(states(disk).held).toBe(0)
  })

  it('30: a result goes to the Response Topic with the Correlation Data, and a queue keeps it', async () => {
    const disk = await DiskWorld.make()
    const requester = await disk.connect('r')
    const correlationData = Buffer.from('17')
    await requester.publish('$queue/jobs', 'ping', 1, {
      properties: { responseTopic: '$queue/answers', correlationData },
    })
    await requester.vanish()
    await disk.kill()
    const { worker, tag } = await working(disk.world)
    const properties = {
      contentType: 'text/plain',
      payloadFormatIndicator: true,
      messageExpiryInterval: 60,
      responseTopic: 'elsewhere',
      correlationData: Buffer.from('mine'),
      userProperties: { by: 'w' },
    }
    expect(await acknowledge(disk, worker, tag, 'pong', { properties })).toBe(0)
    await disk.kill()
    await disk.world.pass(10)
    const back = await disk.connect('r')
    await back.subscribe('$queue/answers', 1)
    const [got] = back.got()
    expect(got).toMatchObject({
      cmd: 'publish',
      topic: '$queue/answers',
      payload: Buffer.from('pong'),
      properties: {
        contentType: 'text/plain',
        payloadFormatIndicator: true,
        messageExpiryInterval: 50,
        correlationData,
        userProperties: { by: 'w' },
      },
    })
    expect((got as { properties?: object }).properties).not.toHaveProperty('responseTopic')
  })

  it('is refused to a client before 5.0 that could never acknowledge', async () => {
    const world = await inMemory(jobs())
    const older = await world.connect('o', {}, 4)
    expect(await older.subscribe('$queue/jobs;ack=explicit/#', 1)).toBe(0x80)
    expect(await older.subscribe('$queue/jobs;ack=explicit', 1)).toBe(0x80)
    expect(await older.subscribe(TAGGED, 1)).toBe(1)
    const client = await world.connect('c')
    expect(await client.subscribe('$queue/jobs;ack=explicit', 1)).toBe(1)
  })

  it('is asked for by User Properties, also after a restart', async () => {
    const disk = await DiskWorld.make(jobs({ retryDelaySeconds: 0 }))
    const worker = await disk.connect('w', lasting())
    const userProperties = { 'queue-ack': 'explicit', 'queue-lease': '5', 'queue-prefetch': '1' }
    await worker.subscribe('$queue/jobs/#', 1, {}, { userProperties })
    await worker.vanish()
    await disk.kill()
    await put(disk, 'x')
    const back = await disk.connect('w', lasting())
    const [got] = publishes(back)
    expect(got!.user['x-ack']).toMatch(/^\$ack\/jobs\/01\.1\./)
    await puback(back, got!.id)
    await disk.world.pass(4)
    expect(states(disk).held).toBe(1)
    await disk.world.pass(2)
    expect(states(disk).held).toBe(0)
  })

  it('at QoS 0: held at once, and that is durable before it is sent', async () => {
    const disk = await DiskWorld.make(jobs())
    await put(disk, 'x')
    const worker = await disk.connect('w', {}, 4)
    await worker.subscribe(TAGGED, 0)
    await disk.settle()
    const [got] = publishes(worker)
    const tag = got!.line.split('/')[2]!
    expect(states(disk)).toMatchObject({ held: 1, inFlight: 0 })
    await disk.kill()
    expect(states(disk)).toMatchObject({ held: 1 })
    const other = await disk.connect('o')
    expect(await acknowledge(disk, other, tag)).toBe(0)
    expect(states(disk).messages).toBe(0)
  })

  it('a tag that was sent and not acknowledged by PUBACK is the same one after a kill', async () => {
    const disk = await DiskWorld.make(jobs())
    await put(disk, 'x')
    const worker = await disk.connect('w', lasting())
    await worker.subscribe('$queue/jobs;ack=explicit/+/#', 1)
    await disk.settle()
    const [before] = publishes(worker)
    await disk.kill()
    const back = await disk.connect('w', lasting())
    const [again] = publishes(back)
    expect(again!.line).toBe(`${before!.line} dup`)
    expect(again!.user['x-ack']).toBe(before!.user['x-ack'])
    expect(await acknowledge(disk, back, again!.line.split('/')[2]!)).toBe(0)
    await puback(back, again!.id)
    expect(states(disk).messages).toBe(0)
  })

  it('a tag of a Session that is gone still completes after a kill, and is not given out again', async () => {
    const disk = await DiskWorld.make(jobs())
    await put(disk, 'x')
    const a = await disk.connect('a')
    await a.subscribe('$queue/jobs;ack=explicit/#', 1)
    await disk.settle()
    const [first] = publishes(a)
    await disk.killNow()
    const b = await disk.connect('b')
    await b.subscribe('$queue/jobs;ack=explicit/#', 1)
    const [second] = publishes(b)
    expect(second!.user['x-ack']).not.toBe(first!.user['x-ack'])
    const tag = `${first!.user['x-ack']}`.slice('$ack/jobs/'.length)
    expect(await acknowledge(disk, b, `${tag}/dead`)).toBe(0x10)
    expect(await acknowledge(disk, b, tag)).toBe(0)
    expect(states(disk).messages).toBe(0)
  })
})

describe('what is no tag', () => {
  it('is refused, and changes nothing', async () => {
    const world = await inMemory(jobs())
    await put(world, 'x')
    await put(world, 'y')
    const { worker, tag } = await working(world)
    const [place, attempt, token] = tag.split('.') as [string, string, string]
    const guessed = [
      `${place}.${attempt}.AAAAAAAA`,
      `${place}.${attempt}.${token.slice(0, 7)}`,
      `${place}.${attempt}.${token}A`,
      `${place}.2.${token}`,
      `02.1.${token}`,
      `1${place.slice(1)}.${attempt}.${token}`,
      'x',
      '01.1',
    ]
    for (const one of guessed) expect([one, await acknowledge(world, worker, one)]).toEqual([one, 0x90])
    expect(await acknowledge(world, worker, `${tag}/undo`)).toBe(0x90)
    const other = { cmd: 'publish', payload: '', qos: 1, messageId: 5 }
    expect(await answer(worker, 'puback', { ...other, topic: `$ack/other/${tag}` })).toMatchObject({
      reasonCode: 0x90,
      properties: { reasonString: 'this is no tag of a message of queue other' },
    })
    expect(states(world)).toMatchObject({ held: 1, messages: 2 })
    const older = await world.connect('o', {}, 4)
    expect(await acknowledge(world, older, guessed[0]!)).toBe(0)
    expect(await acknowledge(world, older, `${tag}/undo`)).toBe(0)
    expect(older.closed).toBe(false)
    expect(states(world)).toMatchObject({ held: 1, messages: 2 })
  })

  it('is a tag of a queue that was deleted and declared again', async () => {
    const world = await inMemory(jobs())
    await put(world, 'x')
    const { tag } = await working(world)
    const { definitions } = world.server.queues!
    const { properties } = queue(world)
    definitions.delete(queue(world), 'test')
    definitions.declare('jobs', properties, 'operator', 'test')
    await world.settle()
    await put(world, 'y')
    const other = await world.connect('o')
    expect(await acknowledge(world, other, tag)).toBe(0x90)
    expect(states(world).messages).toBe(1)
  })

  it('is a time that is none', async () => {
    const world = await inMemory(jobs())
    await put(world, 'x')
    const { worker, tag } = await working(world)
    for (const payload of ['soon', '-1', '86401', '1e3', '0']) {
      expect(await acknowledge(world, worker, `${tag}/extend`, payload)).toBe(0x99)
    }
    expect(await acknowledge(world, worker, `${tag}/retry`, '1.')).toBe(0x99)
    expect(states(world).held).toBe(1)
    expect(await acknowledge(world, worker, `${tag}/retry`, '0')).toBe(0)
  })

  it('is a Will', async () => {
    const world = await inMemory(jobs())
    const will = { topic: '$ack/jobs/01.1.AAAAAAAA', payload: Buffer.from('x'), qos: 1, retain: false }
    const client = await world.connect('w', { will }).catch(() => null)
    expect(client === null || client.closed).toBe(true)
  })
})

describe('verbs', () => {
  it('retry: again after so long, or the delay of the queue; a failure', async () => {
    const world = await inMemory(jobs())
    await put(world, 'x')
    const { worker, tag } = await working(world)
    expect(await acknowledge(world, worker, `${tag}/retry`, '7.5')).toBe(0)
    expect(states(world).deferred).toBe(1)
    await world.pass(7.4)
    expect(publishes(worker)).toEqual([])
    await world.pass(0.2)
    const [again] = publishes(worker)
    expect(again).toMatchObject({ user: { 'x-delivery-count': '2' } })
    // Before PUBACK, too.
    expect(await acknowledge(world, worker, `${again!.user['x-ack']}/retry`)).toBe(0)
    await puback(worker, again!.id)
    await world.pass(2.1)
    expect(publishes(worker)).toMatchObject([{ user: { 'x-delivery-count': '3' } }])
    expect(queue(world).group.look(0, 1)).toMatchObject({ failures: 2 })
  })

  it('dead: to the dead letters, with what the worker said', async () => {
    const world = await inMemory(jobs())
    await put(world, 'x')
    const { worker, tag } = await working(world)
    expect(await acknowledge(world, worker, `${tag}/dead`, 'not JSON')).toBe(0)
    await world.settle()
    const reader = await world.connect('reader')
    await reader.subscribe('$queue/jobs.dead/#', 1)
    const [dead] = publishes(reader)
    expect(dead).toMatchObject({
      line: '$queue/jobs.dead/jobs/a x 1',
      user: {
        'x-death-reason': 'refused',
        'x-death-queue': 'jobs',
        'x-death-count': '1',
        'x-death-detail': 'not JSON',
        'x-death-consumer': 'w',
      },
    })
    expect(dead!.user).not.toHaveProperty('x-death-code')
  })

  it('dead: PUBACK comes once the dead letter is durable', async () => {
    const disk = await DiskWorld.make(jobs())
    await put(disk, 'x')
    const { worker, tag } = await working(disk)
    await worker.vanish()
    await disk.kill()
    const other = await disk.connect('o')
    await other.send({ cmd: 'publish', topic: `$ack/jobs/${tag}/dead`, payload: '', qos: 1, messageId: 3 })
    while (other.link.packets.length === 0) {
      await new Promise((resolve) => setImmediate(resolve))
      await disk.world.settle()
    }
    expect(other.got()).toMatchObject([{ cmd: 'puback', messageId: 3 }])
    await disk.killNow()
    expect([states(disk).messages, states(disk, 'jobs.dead').messages]).toEqual([0, 1])
  })

  it('the lease of a former consumer: its name is on the dead letter, over a restart', async () => {
    const disk = await DiskWorld.make(jobs({ deliveryLimit: 1 }))
    await put(disk, 'x')
    const { worker } = await working(disk, 'former', '$queue/jobs;ack=explicit;lease=5/#')
    await worker.vanish()
    await disk.kill()
    await disk.world.pass(6)
    await disk.settle()
    const reader = await disk.connect('reader')
    await reader.subscribe('$queue/jobs.dead/#', 1)
    await disk.settle()
    expect(publishes(reader)).toMatchObject([
      { user: { 'x-death-reason': 'delivery-limit', 'x-death-consumer': 'former' } },
    ])
  })

  it('in a dead letter queue nothing is dead for good', async () => {
    const world = await inMemory({ declared: [{ name: 'jobs.dead', properties: {} }] })
    const publisher = await world.connect('p')
    await publisher.publish('$queue/jobs.dead/a', 'x', 1)
    const worker = await world.connect('w')
    await worker.subscribe('$queue/jobs.dead;ack=explicit/#', 1)
    const [got] = publishes(worker)
    await puback(worker, got!.id)
    await worker.publish(`${got!.user['x-ack']}/dead`, 'no', 1)
    expect(states(world, 'jobs.dead')).toMatchObject({ messages: 1, deferred: 1 })
  })

  it('a held message counts against the window until it is settled', async () => {
    const world = await inMemory(jobs())
    await put(world, 'x')
    await put(world, 'y')
    const { worker, tag } = await working(world)
    await world.pass(30)
    expect(publishes(worker)).toEqual([])
    await acknowledge(world, worker, tag)
    expect(publishes(worker)).toMatchObject([{ line: '$queue/jobs;ack=explicit;prefetch=1/jobs/a y 1' }])
  })

  it('at QoS 2: exactly once, however often it is repeated', async () => {
    const disk = await DiskWorld.make(jobs(RESULTS))
    const c = await disk.connect('c', lasting())
    await c.subscribe('results/#', 1)
    await c.vanish()
    await put(disk, 'x')
    const worker = await disk.connect('w', lasting())
    await worker.subscribe('$queue/jobs;ack=explicit;prefetch=1/#', 1)
    await disk.settle()
    const [got] = publishes(worker)
    await puback(worker, got!.id)
    const packet = { cmd: 'publish', topic: `${got!.user['x-ack']}`, payload: '5', qos: 2, messageId: 9 }
    await worker.send(packet)
    await disk.settle()
    expect(worker.got()).toMatchObject([{ cmd: 'pubrec', messageId: 9 }])
    await disk.kill()
    const back = await disk.connect('w', lasting())
    const packets = await back.send({ ...packet, dup: true })
    await disk.settle()
    const [pubrec] = [...packets, ...back.got()]
    expect(pubrec).toMatchObject({ cmd: 'pubrec', messageId: 9 })
    expect(pubrec).not.toMatchObject({ reasonCode: 0x10 })
    const last = await back.send({ cmd: 'pubrel', messageId: 9 })
    await disk.settle()
    expect([...last, ...back.got()]).toMatchObject([{ cmd: 'pubcomp' }])
    const reader = await disk.connect('c', lasting())
    expect(lines(reader)).toEqual(['results/jobs/a 5 1'])
    expect(states(disk).messages).toBe(0)
  })

  it('answered before PUBREC of QoS 2: the packet goes on, and the store fits', async () => {
    const disk = await DiskWorld.make(jobs())
    await put(disk, 'x')
    await put(disk, 'y')
    const worker = await disk.connect('w', lasting())
    await worker.subscribe('$queue/jobs;ack=explicit;prefetch=2/#', 2)
    await disk.settle()
    const [one, two] = publishes(worker)
    expect(await acknowledge(disk, worker, `${one!.user['x-ack']}`)).toBe(0)
    expect(await acknowledge(disk, worker, `${two!.user['x-ack']}`)).toBe(0)
    const packets = await worker.send({ cmd: 'pubrec', messageId: one!.id })
    await disk.settle()
    expect([...packets, ...worker.got()]).toMatchObject([{ cmd: 'pubrel', messageId: one!.id }])
    await disk.kill()
    const back = await disk.connect('w', lasting())
    await disk.settle()
    expect(back.got()).toMatchObject([{ cmd: 'pubrel', messageId: one!.id }])
    await back.send({ cmd: 'pubcomp', messageId: one!.id })
    await disk.kill()
    expect(states(disk).messages).toBe(0)
  })

  it('the PUBACK comes after the commit', async () => {
    const disk = await DiskWorld.make(jobs())
    await put(disk, 'x')
    const worker = await disk.connect('w')
    await worker.subscribe('$queue/jobs;ack=explicit/#', 1)
    await disk.settle()
    const [got] = publishes(worker)
    await puback(worker, got!.id)
    await disk.settle()
    const { store } = disk
    const commits = store.committedSequence
    const packet = { cmd: 'publish', topic: `${got!.user['x-ack']}`, payload: '', qos: 1, messageId: 9 }
    const before = store.recordedSequence
    await worker.send(packet)
    const answers = worker.got().filter(({ cmd }) => cmd === 'puback')
    if (answers.length > 0) expect(store.committedSequence).toBeGreaterThan(commits)
    expect(store.recordedSequence).toBeGreaterThan(before)
    await disk.settle()
    expect([...answers, ...worker.got()]).toMatchObject([{ cmd: 'puback', messageId: 9 }])
  })
})
