/** A field of a request that the API refused: `pointer` is a JSON pointer into the body, or `query.x`. */
export interface FieldError {
  pointer: string;
  detail: string;
}

/** The API refused a request, or could not serve it: its problem (RFC 9457). */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  /** Of HTTP. */
  readonly status: number;
  /** One of the codes of the OpenAPI document, as `not-found`; `unknown`: the answer was none of Berth's API. */
  readonly code: string;
  /** What was tried, what was found, and what to do. */
  readonly detail: string;
  readonly errors: readonly FieldError[];
  /** By which an operator finds the request in the API's log. */
  readonly requestId: string | null;
  /** In how many seconds the API is ready to be called again; null: it did not say. */
  readonly retryAfterS: number | null;

  constructor(status: number, problem: unknown, retryAfterS: number | null) {
    const { title, code, detail, errors, requestId } = (problem ?? {}) as Record<string, unknown>;
    const known = typeof code === 'string' && typeof detail === 'string';
    const said = known ? detail : `The answer was ${status}; is this the address of Berth's API?`;
    super(known ? `${title} (${code}): ${said}` : said);
    this.status = status;
    this.code = known ? code : 'unknown';
    this.detail = said;
    this.errors = known && Array.isArray(errors) ? errors : [];
    this.requestId = typeof requestId === 'string' ? requestId : null;
    this.retryAfterS = retryAfterS;
  }
}

/** There was no answer, or it broke off. Whether the API acted on the request is not known. */
export class ConnectionError extends Error {
  override readonly name = 'ConnectionError';
}

/** An answer has more bytes than the client was made to hold: `maxBytes`. */
export class AnswerLimitError extends Error {
  override readonly name = 'AnswerLimitError';
}
