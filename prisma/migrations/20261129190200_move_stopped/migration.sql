-- AlterTable
ALTER TABLE "Migration" ADD COLUMN     "endedAs" "VmState";

-- What follows is written by hand: the disks of a VM without a domain may move.

DROP TRIGGER "Vm_transition" ON "Vm";
CREATE TRIGGER "Vm_transition" BEFORE UPDATE ON "Vm" FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION berth_check_transition(
  'pending>reserved', 'pending>removed',
  'reserved>pending', 'reserved>creating', 'reserved>removing', 'reserved>removed', 'reserved>stuck',
  'creating>running', 'creating>stopped', 'creating>crashed', 'creating>removing', 'creating>stuck',
  'running>paused', 'running>suspending', 'running>migrating', 'running>stopped', 'running>crashed', 'running>removing',
  'running>stuck',
  'paused>running', 'paused>suspending', 'paused>migrating', 'paused>stopped', 'paused>crashed', 'paused>removing', 'paused>stuck',
  'suspending>suspended', 'suspending>running', 'suspending>stopped', 'suspending>crashed', 'suspending>stuck',
  'suspending>removing',
  'suspended>restoring', 'suspended>migrating', 'suspended>removing', 'suspended>stuck',
  'restoring>running', 'restoring>suspended', 'restoring>stopped', 'restoring>crashed', 'restoring>stuck', 'restoring>removing',
  'migrating>running', 'migrating>suspended', 'migrating>paused', 'migrating>stopped', 'migrating>crashed', 'migrating>stuck',
  'migrating>removing',
  'stopped>creating', 'stopped>migrating', 'stopped>removing', 'stopped>stuck',
  'crashed>creating', 'crashed>migrating', 'crashed>removing', 'crashed>stuck',
  'stuck>running', 'stuck>paused', 'stuck>suspended', 'stuck>stopped', 'stuck>crashed', 'stuck>removing',
  'removing>removed', 'removing>stuck');
