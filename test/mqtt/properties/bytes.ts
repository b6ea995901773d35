/** Encoded properties for the tests of this folder. */
import { field, uint16, uint32 } from '../packets.ts'

export const ALIAS = Buffer.concat([Buffer.from([0x23]), uint16(3)])
export const EXPIRY = Buffer.concat([Buffer.from([0x02]), uint32(60)])
export const FORMAT = Buffer.from([0x01, 1])
export const CONTENT = Buffer.concat([Buffer.from([0x03]), field('text')])
export const USER = Buffer.concat([Buffer.from([0x26]), field('a'), field('1')])
