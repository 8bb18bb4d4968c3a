/**
 * The errors that users of `node:net` know: codes and fields of the system's,
 * and the ones that Node throws at arguments.
 */
import type * as SessionError from "@cut-through/core/SessionError"
import { getSystemErrorMap, inspect } from "node:util"

/** What was tried, as Node names it in `syscall`. */
export type Syscall = "connect" | "listen" | "read" | "write" | "shutdown"

const known = new Map(
  Array.from(getSystemErrorMap(), ([errno, [code, message]]) => [code, { errno, message }] as const)
)

/** The code of a session error's reason. */
export const codeOf = (reason: SessionError.Reason): string => {
  switch (reason._tag) {
    case "AlreadyListening":
      return "EADDRINUSE"
    case "NoRoute":
    case "LocalConnect":
    case "Refused":
      return "ECONNREFUSED"
    case "Scope":
      return "ENETUNREACH"
    // What a connect gets that a local firewall rule forbids.
    case "Filtered":
    case "UnknownNamespace":
    case "WrongNamespaceSecret":
      return "EACCES"
    case "QuotaExceeded":
      return "EMFILE"
    case "TimedOut":
      return "ETIMEDOUT"
    case "AllocFailed":
      return "ENOMEM"
    case "Closed":
      return "ECONNABORTED"
    case "Reset":
    case "PeerDied":
      return "ECONNRESET"
    case "BrokenPipe":
      return "EPIPE"
    case "CorruptSegment":
      return "EPROTO"
    case "NoHost":
      return "ENETDOWN"
    case "InvalidArgument":
      return "EINVAL"
    default:
      return codeOfCause(reason) ?? "EIO"
  }
}

/** Another transport's error, which may have brought the system's own with it. */
const codeOfCause = (error: unknown): string | undefined => {
  if (typeof error !== "object" || error === null) return undefined
  const { cause, code } = error as { readonly code?: unknown; readonly cause?: unknown }
  return typeof code === "string" ? code : codeOfCause(cause)
}

/** An error of the system as Node makes it: `connect ECONNREFUSED 127.0.0.1:7000`. */
export const systemError = (
  code: string,
  syscall: Syscall,
  where?: { readonly address: string; readonly port: number },
  cause?: unknown
): NodeJS.ErrnoException => {
  const { errno, message } = known.get(code) ?? { errno: undefined, message: code }
  const note = syscall === "listen" ? `: ${message}` : ""
  const place = where === undefined ? "" : ` ${where.address}:${where.port}`
  const error: NodeJS.ErrnoException = new Error(
    `${syscall} ${code}${note}${place}`,
    cause === undefined ? undefined : { cause }
  )
  if (errno !== undefined) error.errno = errno
  error.code = code
  error.syscall = syscall
  return where === undefined ? error : Object.assign(error, where)
}

/** A session error as Node's users expect it; the original is its `cause`. */
export const fromSessionError = (
  error: SessionError.SessionError,
  syscall: Syscall,
  where?: { readonly address: string; readonly port: number }
): NodeJS.ErrnoException => systemError(codeOf(error.reason), syscall, where, error)

/** An error with a code of Node's own, shown with it as Node's are: `RangeError [ERR_...]: ...`. */
export const coded = <E extends Error>(error: E, code: string): E & { code: string } => {
  const { name } = error
  error.name = `${name} [${code}]`
  // The stack takes the name that the error has when it is first looked at.
  void error.stack
  delete (error as { name?: string }).name
  return Object.assign(error, { code })
}

const shown = (value: unknown): string =>
  value == null
    ? ` Received ${value}`
    : typeof value === "function"
      ? ` Received function ${value.name}`
      : typeof value === "object"
        ? value.constructor?.name
          ? ` Received an instance of ${value.constructor.name}`
          : ` Received ${inspect(value, { depth: -1 })}`
        : ` Received type ${typeof value} (${inspect(value)})`

/** An argument of a wrong type. */
export const invalidType = (name: string, expected: string, value: unknown): TypeError => {
  const kind = name.includes(".") ? "property" : "argument"
  return coded(new TypeError(`The "${name}" ${kind} must be ${expected}.${shown(value)}`), "ERR_INVALID_ARG_TYPE")
}

/** An option that cannot be what it is. */
export const invalidValue = (name: string, value: unknown, why: string): TypeError => {
  const kind = name.includes(".") ? "property" : "argument"
  return coded(new TypeError(`The ${kind} '${name}' ${why}. Received ${inspect(value)}`), "ERR_INVALID_ARG_VALUE")
}

/** A port, or the error for what is none. */
export const validPort = (value: unknown, name: string): number => {
  const isText = typeof value === "string" && value.trim() !== ""
  const port = typeof value === "number" || isText ? Number(value) : -1
  if (Number.isInteger(port) && port >= 0 && port <= 65_535) return port
  throw coded(new RangeError(`${name} should be >= 0 and < 65536.${shown(value)}.`), "ERR_SOCKET_BAD_PORT")
}

/** What cannot be done over shared memory, and what to do instead. */
export const unsupported = (what: string, instead: string): NodeJS.ErrnoException =>
  coded(new Error(`${what} is not supported over cut-through: ${instead}`), "ENOTSUP")
