import { z } from 'zod';
import {
  createDocument,
  type ZodOpenApiOperationObject,
  type ZodOpenApiPathsObject,
  type ZodOpenApiResponsesObject,
} from 'zod-openapi';
import { type ErrorCode, errorTable } from '../../model/errors.ts';
import { Problem } from '../schemas/problem.ts';
import type { Operation, ResponseSpec } from './operation.ts';

const idempotencyHeader = z.object({
  'Idempotency-Key': z
    .string()
    .regex(/^[\x21-\x7e]{1,255}$/)
    .optional()
    .meta({
      description: 'Names this request: repeated with the same body it gets the same answer, with another body 409',
    }),
});

/** What any route may answer besides its own problems. */
function commonProblems(operation: Operation): ErrorCode[] {
  const codes: ErrorCode[] = ['bad-request', 'internal', 'unavailable'];
  if (operation.access !== 'open') codes.push('unauthenticated', 'rate-limited');
  if (operation.access === 'operator') codes.push('forbidden');
  if (operation.body) codes.push('unsupported-media-type', 'too-large');
  if (operation.method === 'post') codes.push('idempotency-mismatch', 'conflict');
  return codes;
}

function problemResponses(codes: ErrorCode[]): ZodOpenApiResponsesObject {
  const responses: ZodOpenApiResponsesObject = {};
  const statuses = [...new Set(codes.map((code) => errorTable[code].status))].sort();
  for (const status of statuses) {
    const here = [...new Set(codes)].filter((code) => errorTable[code].status === status);
    responses[`${status}` as `4${string}`] = {
      description: here.map((code) => `\`${code}\`: ${errorTable[code].title}`).join('; '),
      content: { 'application/problem+json': { schema: Problem } },
    };
  }
  return responses;
}

function answerResponse(answered: ResponseSpec): ZodOpenApiResponsesObject[`2${string}`] {
  const { description, schema, media, formats, headers } = answered;
  return {
    description,
    ...((schema || media) && {
      content: {
        ...(schema && { 'application/json': { schema } }),
        ...Object.fromEntries([media ?? []].flat().map((one) => [one, { schema: z.string() }])),
        ...Object.fromEntries(Object.entries(formats ?? {}).map(([one, of]) => [one, { schema: of }])),
      },
    }),
    ...(headers && {
      headers: Object.fromEntries(
        Object.entries(headers).map(([name, text]) => [name, { description: text, schema: { type: 'string' as const } }]),
      ),
    }),
  };
}

function requestBody(operation: Operation): Pick<ZodOpenApiOperationObject, 'requestBody'> {
  if (operation.body) return { requestBody: { required: true, content: { 'application/json': { schema: operation.body } } } };
  if (!operation.bytes) return {};
  const schema = { type: 'string', format: 'binary' } as const;
  return { requestBody: { ...operation.bytes, required: true, content: { 'application/octet-stream': { schema } } } };
}

function operationObject(operation: Operation): ZodOpenApiOperationObject {
  const responses = problemResponses([...operation.problems, ...commonProblems(operation)]);
  for (const [status, answered] of Object.entries(operation.answers))
    responses[status as `2${string}`] = answerResponse(answered);
  return {
    operationId: operation.id,
    tags: [operation.tag],
    summary: operation.summary,
    ...(operation.description && { description: operation.description }),
    ...(operation.access === 'open' ? { security: [] } : {}),
    requestParams: {
      path: operation.params,
      query: operation.query,
      ...(operation.method === 'post' && { header: idempotencyHeader }),
    },
    ...requestBody(operation),
    responses,
  };
}

/** The OpenAPI document, made from the same declarations that validate requests. */
export function describeApi(operations: Operation[]): ReturnType<typeof createDocument> {
  const paths: ZodOpenApiPathsObject = {};
  for (const operation of operations)
    paths[operation.path] = { ...paths[operation.path], [operation.method]: operationObject(operation) };
  return createDocument({
    openapi: '3.1.0',
    info: {
      title: 'Berth',
      version: '1',
      description: 'Durable VM provisioning: tasks in VMs, from their inputs to their outputs, done or undone.',
    },
    security: [{ apiKey: [] }],
    components: { securitySchemes: { apiKey: { type: 'http', scheme: 'bearer', description: 'An API key' } } },
    paths,
  });
}
