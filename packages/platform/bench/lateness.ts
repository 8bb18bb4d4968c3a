/**
 * How late a timer is while its thread has other things to do.
 */

const EVERY_MILLIS = 1

/** Starts a timer; what is returned stops it, and tells by how many milliseconds it was late each time. */
export const watch = (): (() => Float64Array) => {
  const late: Array<number> = []
  let due = performance.now() + EVERY_MILLIS
  let timer = setTimeout(onTime, EVERY_MILLIS)
  function onTime() {
    late.push(Math.max(0, performance.now() - due))
    due = performance.now() + EVERY_MILLIS
    timer = setTimeout(onTime, EVERY_MILLIS)
  }
  return () => {
    clearTimeout(timer)
    // The one that it still waits for, if that is late already.
    late.push(Math.max(0, performance.now() - due))
    return Float64Array.from(late)
  }
}
