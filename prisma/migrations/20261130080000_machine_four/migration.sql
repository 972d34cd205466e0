-- VMs from now on have the devices of version 4 (model/vm.ts); what runs or is saved keeps its own until it boots again.
ALTER TABLE "Vm" ALTER COLUMN "machine" SET DEFAULT 4;
