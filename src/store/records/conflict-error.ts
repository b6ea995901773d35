/** A record contradicts earlier ones. The message completes "line 17 ...". */
export class ConflictError extends Error {
  override readonly name = 'ConflictError'
}
