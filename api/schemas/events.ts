import { z } from 'zod';
import { AccountAdjustedData } from '../../model/books/account-event.ts';
import {
  DrainData,
  LeaseData,
  ReservationData,
  TaskAcceptedData,
  TaskEndedData,
  TaskStartedData,
  VmCreatedData,
  VmMigratedData,
  VmRehomedData,
  VmRemovedData,
  VmRestoredData,
  VmSilentData,
  VmStartedData,
  VmStoppedData,
  VmSuspendedData,
} from '../../model/events.ts';
import { time } from './common.ts';

export const Event = z
  .strictObject({
    specversion: z.literal('1.0'),
    id: z.string(),
    source: z.string(),
    type: z.string(),
    subject: z.string(),
    time,
    datacontenttype: z.literal('application/json'),
    owner: z.string(),
    sequence: z.string().meta({ description: 'Its position among all events; a cursor for `after`' }),
    data: z
      .union([
        TaskAcceptedData,
        TaskStartedData,
        TaskEndedData,
        VmMigratedData,
        DrainData,
        ReservationData,
        LeaseData,
        VmCreatedData,
        VmStartedData,
        VmSuspendedData,
        VmRestoredData,
        VmSilentData,
        VmRehomedData,
        VmStoppedData,
        VmRemovedData,
        AccountAdjustedData,
        z.looseObject({}),
      ])
      .meta({
        description:
          'By type: of berth.task.accepted, of .started, of .succeeded, .failed and .cancelled; of berth.vm.migrated, .rehomed, .silent, .created, .started, .suspended, .restored, .paused, .resumed, .stopped, .crashed and .removed; of berth.drain.…, berth.reservation.… and berth.lease.…; of berth.account.adjusted; others may be added',
      }),
  })
  .meta({ id: 'CloudEvent', description: 'CloudEvents 1.0, structured' });
