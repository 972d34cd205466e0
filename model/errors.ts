/**
 * Every error that Berth tells anyone, in one closed table. `status` is the HTTP status when it reaches a
 * caller, `retryable` whether repeating the very same act can help, `fault` who can do something about it.
 */
export const errorTable = {
  // what a caller sent
  'bad-request': { status: 400, retryable: false, fault: 'caller', title: 'The request is not valid' },
  unauthenticated: { status: 401, retryable: false, fault: 'caller', title: 'No valid API key' },
  forbidden: { status: 403, retryable: false, fault: 'caller', title: 'This needs the operator role' },
  'not-found': { status: 404, retryable: false, fault: 'caller', title: 'No such resource' },
  'method-not-allowed': { status: 405, retryable: false, fault: 'caller', title: 'No such method here' },
  'idempotency-mismatch': {
    status: 409,
    retryable: false,
    fault: 'caller',
    title: 'The Idempotency-Key was used with another body',
  },
  conflict: { status: 409, retryable: false, fault: 'caller', title: 'The resource is not in a state for this' },
  'in-use': { status: 409, retryable: false, fault: 'caller', title: 'The resource is in use' },
  'confirmation-needed': { status: 409, retryable: false, fault: 'caller', title: 'This has to be confirmed' },
  'cursor-expired': { status: 410, retryable: false, fault: 'caller', title: 'The events after the cursor are kept no more' },
  'precondition-failed': { status: 412, retryable: false, fault: 'caller', title: 'The resource has changed since' },
  'too-large': { status: 413, retryable: false, fault: 'caller', title: 'The body is too large' },
  'upgrade-required': { status: 426, retryable: false, fault: 'caller', title: 'The route is a WebSocket' },
  'unsupported-media-type': { status: 415, retryable: false, fault: 'caller', title: 'The body has the wrong media type' },
  'range-not-satisfiable': { status: 416, retryable: false, fault: 'caller', title: 'The range lies outside the file' },
  'digest-mismatch': {
    status: 422,
    retryable: false,
    fault: 'caller',
    title: 'The bytes do not have the digest that was announced',
  },
  'image-unknown': { status: 422, retryable: false, fault: 'caller', title: 'There is no such image' },
  'file-unknown': { status: 422, retryable: false, fault: 'caller', title: 'There is no such file' },
  'lease-refused': { status: 409, retryable: false, fault: 'caller', title: 'The lease cannot be had as it was asked for' },
  'does-not-fit': { status: 422, retryable: false, fault: 'caller', title: 'No host of this site is large enough' },
  'rate-limited': { status: 429, retryable: true, fault: 'caller', title: 'Too many requests' },
  'quota-exceeded': { status: 403, retryable: false, fault: 'caller', title: 'The quota of this owner is used up' },
  'insufficient-funds': { status: 402, retryable: false, fault: 'caller', title: 'The account would be below its limit' },
  'amount-out-of-bounds': { status: 422, retryable: false, fault: 'caller', title: 'The books cannot hold this amount' },
  'quote-refused': { status: 409, retryable: false, fault: 'caller', title: 'The quote does not hold for this order' },
  'offer-refused': { status: 409, retryable: true, fault: 'caller', title: 'No offer meets the constraints and the limit' },
  'queue-full': { status: 503, retryable: true, fault: 'site', title: 'The queue of tasks is full' },
  // what an image met
  'image-refused': { status: 422, retryable: false, fault: 'caller', title: 'The disk is not one that can be taken' },
  'build-failed': { status: 422, retryable: false, fault: 'caller', title: 'The image could not be built' },
  'build-cancelled': { status: 409, retryable: false, fault: 'caller', title: 'The build was cancelled' },
  'build-timeout': { status: 422, retryable: false, fault: 'caller', title: 'The build exceeded timeoutS' },
  // what a task met
  'input-unavailable': { status: 422, retryable: false, fault: 'caller', title: 'An input could not be read' },
  'address-refused': { status: 422, retryable: false, fault: 'caller', title: 'The URL leads to an address that is not allowed' },
  'inputs-too-large': { status: 422, retryable: false, fault: 'caller', title: 'The inputs do not fit on the data disk' },
  'output-missing': { status: 422, retryable: false, fault: 'caller', title: 'An output pattern matched nothing' },
  'outputs-refused': { status: 422, retryable: false, fault: 'caller', title: 'The outputs could not be taken out' },
  'command-failed': { status: 422, retryable: false, fault: 'caller', title: 'The command exited with an error' },
  'command-not-started': { status: 422, retryable: false, fault: 'caller', title: 'The command could not be started' },
  'setup-failed': { status: 422, retryable: false, fault: 'caller', title: 'The VM could not be set up as it was asked for' },
  'task-timeout': { status: 422, retryable: false, fault: 'caller', title: 'The task exceeded timeoutS' },
  'lease-expired': { status: 422, retryable: false, fault: 'caller', title: 'The lease ended before the task did' },
  'promise-broken': {
    status: 503,
    retryable: false,
    fault: 'site',
    title: 'The hosts of a reservation were not there in its time',
  },
  'vm-lost': { status: 500, retryable: false, fault: 'site', title: 'The VM disappeared while it ran' },
  'powered-off': { status: 409, retryable: false, fault: 'caller', title: 'The guest powered itself off' },
  'guest-crashed': { status: 409, retryable: false, fault: 'caller', title: 'The guest crashed' },
  'host-restarted': { status: 503, retryable: false, fault: 'site', title: 'The host was restarted' },
  'guest-invalid': { status: 422, retryable: false, fault: 'caller', title: 'The guest reported what cannot be' },
  'guest-program-missing': { status: 409, retryable: false, fault: 'caller', title: 'The guest has no program of Berth' },
  'worker-crashed': { status: 500, retryable: false, fault: 'site', title: 'The step has ended the host worker twice' },
  interrupted: { status: 500, retryable: false, fault: 'site', title: 'The workflow of the task was ended from outside' },
  'force-ended': { status: 409, retryable: false, fault: 'site', title: 'An operator has ended it' },
  'vm-moved': { status: 409, retryable: false, fault: 'site', title: 'The VM has moved to another host' },
  'vm-suspended': { status: 409, retryable: false, fault: 'site', title: 'The VM is suspended' },
  // what a migration met
  'migration-refused': { status: 409, retryable: false, fault: 'caller', title: 'No host can take this VM' },
  'migration-aborted': { status: 409, retryable: false, fault: 'caller', title: 'The migration was aborted' },
  'not-converging': { status: 409, retryable: false, fault: 'caller', title: 'The VM writes faster than it can be moved' },
  'drain-impossible': { status: 409, retryable: false, fault: 'caller', title: 'The host cannot be empty by then' },
  // what a host met
  'no-capacity': { status: 503, retryable: true, fault: 'site', title: 'No host has room at the moment' },
  'repository-unavailable': { status: 503, retryable: true, fault: 'site', title: 'The repository does not answer' },
  'orders-unavailable': { status: 503, retryable: false, fault: 'site', title: 'The API does not tell the host what to do' },
  'host-unavailable': { status: 503, retryable: true, fault: 'site', title: 'The host does not answer' },
  'host-busy': { status: 503, retryable: true, fault: 'site', title: 'The host answers too slowly' },
  'disk-full': { status: 507, retryable: false, fault: 'site', title: 'The disk of the host is full' },
  'stale-generation': { status: 409, retryable: false, fault: 'site', title: 'The placement of this VM has changed since' },
  'not-ours': { status: 409, retryable: false, fault: 'site', title: 'Something of this name belongs to somebody else' },
  'image-damaged': { status: 500, retryable: true, fault: 'site', title: 'An image does not have its digest' },
  'boot-failed': { status: 500, retryable: false, fault: 'site', title: 'The VM did not come up' },
  hypervisor: { status: 500, retryable: true, fault: 'site', title: 'The hypervisor refused' },
  ambiguous: { status: 500, retryable: false, fault: 'site', title: 'The outcome cannot be known yet' },
  'ledger-refused': { status: 500, retryable: false, fault: 'site', title: 'The ledger cannot hold this value' },
  unavailable: { status: 503, retryable: true, fault: 'site', title: 'A part that Berth needs does not answer' },
  internal: { status: 500, retryable: true, fault: 'site', title: 'Berth made a mistake' },
} as const satisfies Record<string, { status: number; retryable: boolean; fault: 'caller' | 'site'; title: string }>;

export type ErrorCode = keyof typeof errorTable;

/** One field of a request that is wrong: a JSON pointer, what was found, what was expected. */
export interface FieldError {
  pointer: string;
  detail: string;
}

/** `message` says what was tried, what was found and what to do. */
export class BerthError extends Error {
  readonly code: ErrorCode;
  readonly fields: FieldError[];
  /** Members of its problem+json that belong to this kind of error, such as what could be had instead. */
  readonly extra: Record<string, unknown>;

  constructor(
    code: ErrorCode,
    message: string,
    options?: { cause?: unknown; fields?: FieldError[]; extra?: Record<string, unknown> },
  ) {
    super(message, options?.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'BerthError';
    this.code = code;
    this.fields = options?.fields ?? [];
    this.extra = options?.extra ?? {};
  }

  get status(): number {
    return errorTable[this.code].status;
  }

  get retryable(): boolean {
    return errorTable[this.code].retryable;
  }
}

export function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(errorTable, text);
}
