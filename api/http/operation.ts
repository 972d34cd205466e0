import type { Request, Response } from 'express';
import { z } from 'zod';
import type { ErrorCode } from '../../model/errors.ts';
import type { Answer, streamed } from './answer.ts';
import type { Caller } from './auth.ts';
import { readIdempotencyKey } from './idempotency.ts';
import { refuseUnstorable, validate } from './validation.ts';

export interface ResponseSpec {
  description: string;
  /** Of a JSON body. A body may have the media type `media` as well, or instead. */
  schema?: z.ZodType;
  media?: string | string[];
  /** Bodies of JSON of another media type, with their schemas. */
  formats?: Record<string, z.ZodType>;
  headers?: Record<string, string>;
}

/**
 * Which callers a route takes: `open` any; `signed` one with a signed URL; `host` and `edge` the machine of its path, with its
 * key; the others a key of that role.
 */
type Access = 'open' | 'client' | 'operator' | 'signed' | 'host' | 'edge';

export interface Call<P, Q, B> {
  params: P;
  query: Q;
  body: B;
  caller: Caller;
  /** The Idempotency-Key of a POST, or null. */
  idempotencyKey: string | null;
  req: Request;
  res: Response;
}

interface RouteDeclaration {
  method: 'get' | 'post' | 'put' | 'patch' | 'delete';
  /** As OpenAPI writes it: /v1/tasks/{id}. A parameter `path`, which is the last one, has slashes in it. */
  path: string;
  id: string;
  tag: string;
  summary: string;
  description?: string;
  access: Access;
  answers: Record<number, ResponseSpec>;
  problems: ErrorCode[];
  /** It makes a plan of the whole site, of which an owner has so many a minute. */
  plans?: boolean;
  /** The largest JSON body; 64 KiB unless said. */
  maxBodyBytes?: number;
  /** The body is bytes, which the handler reads as a stream. */
  bytes?: { description: string };
}

/** One route: the same declaration validates requests and documents them. */
export interface Operation extends RouteDeclaration {
  params: z.ZodObject;
  query: z.ZodObject;
  body: z.ZodType | null;
  run(req: Request, res: Response, caller: Caller): Promise<Answer | typeof streamed>;
}

/** A parameter with slashes is a list in Express: of what is between them. */
const joined = (params: Request['params']): Record<string, string> =>
  Object.fromEntries(Object.entries(params).map(([name, value]) => [name, Array.isArray(value) ? value.join('/') : value]));

export function operation<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType>(
  declared: RouteDeclaration & {
    params?: P;
    query?: Q;
    body?: B;
    handle(call: Call<z.output<P>, z.output<Q>, z.output<B>>): Promise<Answer | typeof streamed>;
  },
): Operation {
  const { handle, body, ...rest } = declared;
  const params = declared.params ?? (z.strictObject({}) as unknown as P);
  const query = declared.query ?? (z.strictObject({}) as unknown as Q);
  return {
    ...rest,
    params,
    query,
    body: body ?? null,
    run: async (req, res, caller) => {
      refuseUnstorable('path', req.params);
      refuseUnstorable('query', req.query);
      if (body) refuseUnstorable('body', req.body);
      return handle({
        params: validate(params, 'path', joined(req.params)),
        query: validate(query, 'query', { ...req.query }),
        body: body ? validate(body, 'body', req.body) : (undefined as z.output<B>),
        caller,
        idempotencyKey: declared.method === 'post' ? readIdempotencyKey(req) : null,
        req,
        res,
      });
    },
  };
}
