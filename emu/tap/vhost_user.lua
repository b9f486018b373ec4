-- Wireshark dissector for the files that `emu tap --pcap` writes (LINKTYPE_USER0).
--
-- Install: copy it to a folder of Wireshark's Lua plugins (Help > About > Folders), or
--   tshark -X lua_script:vhost_user.lua -r FILE
--
-- A packet begins with 12 bytes of the tap, big-endian: version (1), bits (1: sent by the back-end,
-- 2: on the back-end channel, 4: the message is big-endian), number of descriptors (2 bytes),
-- nanoseconds since the request, or 0 (8 bytes). Then comes the message as it was on the wire.

local vu = Proto("vhost_user", "vhost-user")

local FRONT_END = {
  [1] = "GET_FEATURES",
  [2] = "SET_FEATURES",
  [3] = "SET_OWNER",
  [4] = "RESET_OWNER",
  [5] = "SET_MEM_TABLE",
  [6] = "SET_LOG_BASE",
  [7] = "SET_LOG_FD",
  [8] = "SET_VRING_NUM",
  [9] = "SET_VRING_ADDR",
  [10] = "SET_VRING_BASE",
  [11] = "GET_VRING_BASE",
  [12] = "SET_VRING_KICK",
  [13] = "SET_VRING_CALL",
  [14] = "SET_VRING_ERR",
  [15] = "GET_PROTOCOL_FEATURES",
  [16] = "SET_PROTOCOL_FEATURES",
  [17] = "GET_QUEUE_NUM",
  [18] = "SET_VRING_ENABLE",
  [19] = "SEND_RARP",
  [20] = "NET_SET_MTU",
  [21] = "SET_BACKEND_REQ_FD",
  [22] = "IOTLB_MSG",
  [23] = "SET_VRING_ENDIAN",
  [24] = "GET_CONFIG",
  [25] = "SET_CONFIG",
  [26] = "CREATE_CRYPTO_SESSION",
  [27] = "CLOSE_CRYPTO_SESSION",
  [28] = "POSTCOPY_ADVISE",
  [29] = "POSTCOPY_LISTEN",
  [30] = "POSTCOPY_END",
  [31] = "GET_INFLIGHT_FD",
  [32] = "SET_INFLIGHT_FD",
  [33] = "GPU_SET_SOCKET",
  [34] = "RESET_DEVICE",
  [35] = "VRING_KICK",
  [36] = "GET_MAX_MEM_SLOTS",
  [37] = "ADD_MEM_REG",
  [38] = "REM_MEM_REG",
  [39] = "SET_STATUS",
  [40] = "GET_STATUS",
  [41] = "GET_SHARED_OBJECT",
  [42] = "SET_DEVICE_STATE_FD",
  [43] = "CHECK_DEVICE_STATE",
  [44] = "GET_SHMEM_CONFIG",
  [45] = "GET_VRING_BASE_SKIP_DRAIN",
}
local BACK_END = {
  [1] = "IOTLB_MSG",
  [2] = "CONFIG_CHANGE_MSG",
  [3] = "VRING_HOST_NOTIFIER_MSG",
  [4] = "VRING_CALL",
  [5] = "VRING_ERR",
  [6] = "SHARED_OBJECT_ADD",
  [7] = "SHARED_OBJECT_REMOVE",
  [8] = "SHARED_OBJECT_LOOKUP",
  [9] = "SHMEM_MAP",
  [10] = "SHMEM_UNMAP",
}

local SENDERS = { [0] = "front-end", [1] = "back-end" }
local CHANNELS = { [0] = "main", [1] = "back-end channel" }

local f = {
  sender = ProtoField.uint8("vhost_user.sender", "Sender", base.DEC, SENDERS, 0x1),
  channel = ProtoField.uint8("vhost_user.channel", "Channel", base.DEC, CHANNELS, 0x2),
  fds = ProtoField.uint16("vhost_user.fds", "Descriptors"),
  latency = ProtoField.uint64("vhost_user.latency", "Nanoseconds since the request"),
  id = ProtoField.uint32("vhost_user.request", "Request"),
  name = ProtoField.string("vhost_user.name", "Name"),
  flags = ProtoField.uint32("vhost_user.flags", "Flags", base.HEX),
  version = ProtoField.uint32("vhost_user.flags.version", "Version", base.DEC, nil, 0x3),
  reply = ProtoField.bool("vhost_user.flags.reply", "Reply", 32, nil, 0x4),
  need_reply = ProtoField.bool("vhost_user.flags.need_reply", "Need reply", 32, nil, 0x8),
  size = ProtoField.uint32("vhost_user.size", "Payload size"),
  payload = ProtoField.bytes("vhost_user.payload", "Payload"),
  u64 = ProtoField.uint64("vhost_user.u64", "Value", base.HEX),
  ring = ProtoField.uint32("vhost_user.ring", "Vring"),
  num = ProtoField.uint32("vhost_user.num", "Number"),
  no_fd = ProtoField.bool("vhost_user.no_fd", "No descriptor"),
  addr_flags = ProtoField.uint32("vhost_user.addr.flags", "Address flags", base.HEX),
  desc = ProtoField.uint64("vhost_user.addr.desc", "Descriptor table", base.HEX),
  used = ProtoField.uint64("vhost_user.addr.used", "Used ring", base.HEX),
  avail = ProtoField.uint64("vhost_user.addr.avail", "Available ring", base.HEX),
  log = ProtoField.uint64("vhost_user.addr.log", "Log address", base.HEX),
  regions = ProtoField.uint32("vhost_user.regions", "Regions"),
  gpa = ProtoField.uint64("vhost_user.region.gpa", "Guest physical address", base.HEX),
  region_size = ProtoField.uint64("vhost_user.region.size", "Size", base.HEX),
  user_addr = ProtoField.uint64("vhost_user.region.user_addr", "User address", base.HEX),
  mmap_offset = ProtoField.uint64("vhost_user.mmap_offset", "Offset in the descriptor", base.HEX),
  area_size = ProtoField.uint64("vhost_user.area.size", "Area size", base.HEX),
  queues = ProtoField.uint16("vhost_user.inflight.queues", "Queues"),
  queue_size = ProtoField.uint16("vhost_user.inflight.queue_size", "Queue size"),
  config_offset = ProtoField.uint32("vhost_user.config.offset", "Offset"),
  config_size = ProtoField.uint32("vhost_user.config.size", "Size"),
  config_flags = ProtoField.uint32("vhost_user.config.flags", "Flags", base.HEX),
  config_data = ProtoField.bytes("vhost_user.config.data", "Configuration"),
  direction = ProtoField.uint32("vhost_user.state.direction", "Direction"),
  phase = ProtoField.uint32("vhost_user.state.phase", "Phase"),
}
vu.fields = {}
for _, field in pairs(f) do
  table.insert(vu.fields, field)
end

-- Adds fields one after the other: pairs of a field and its bytes.
local function add_all(tree, data, big, list)
  local at = 0
  for _, entry in ipairs(list) do
    local field, size = entry[1], entry[2]
    if field then
      if big then tree:add(field, data(at, size)) else tree:add_le(field, data(at, size)) end
    end
    at = at + size
  end
end

local function number(data, big)
  if big then return data:uint() end
  return data:le_uint()
end

local REGION = { { f.gpa, 8 }, { f.region_size, 8 }, { f.user_addr, 8 }, { f.mmap_offset, 8 } }

local function regions(tree, data, big)
  local count = number(data(0, 4), big)
  add_all(tree, data, big, { { f.regions, 4 } })
  local size = count > 0 and math.floor((data:len() - 8) / count) or 0
  for index = 0, count - 1 do
    if size < 32 or 8 + (index + 1) * size > data:len() then return end
    local part = data(8 + index * size, size)
    add_all(tree:add(vu, part, "Region " .. index), part, big, REGION)
  end
end

local function one_region(tree, data, big)
  add_all(tree, data(8), big, REGION)
end

local function config(tree, data, big)
  add_all(tree, data, big, { { f.config_offset, 4 }, { f.config_size, 4 }, { f.config_flags, 4 } })
  if data:len() > 12 then tree:add(f.config_data, data(12)) end
end

local function ring_fd(tree, data, big)
  local low = big and data(7, 1) or data(0, 1)
  local next_byte = big and data(6, 1) or data(1, 1)
  tree:add(f.ring, low)
  tree:add(f.no_fd, next_byte)
end

local function fields(list)
  return function(tree, data, big) add_all(tree, data, big, list) end
end

local STATE = fields({ { f.ring, 4 }, { f.num, 4 } })
local U64 = fields({ { f.u64, 8 } })

-- By name, then by bytes of payload.
local SHAPES = {
  SET_VRING_ADDR = { [40] = fields({
    { f.ring, 4 }, { f.addr_flags, 4 }, { f.desc, 8 }, { f.used, 8 }, { f.avail, 8 }, { f.log, 8 },
  }) },
  SET_LOG_BASE = { [16] = fields({ { f.area_size, 8 }, { f.mmap_offset, 8 } }) },
  GET_INFLIGHT_FD = { [24] = fields({
    { f.area_size, 8 }, { f.mmap_offset, 8 }, { f.queues, 2 }, { f.queue_size, 2 },
  }) },
  SET_DEVICE_STATE_FD = { [8] = fields({ { f.direction, 4 }, { f.phase, 4 } }) },
  ADD_MEM_REG = { [40] = one_region },
  REM_MEM_REG = { [40] = one_region },
}
SHAPES.SET_INFLIGHT_FD = SHAPES.GET_INFLIGHT_FD
for _, name in ipairs({
  "SET_VRING_NUM", "SET_VRING_BASE", "GET_VRING_BASE", "GET_VRING_BASE_SKIP_DRAIN",
  "SET_VRING_ENABLE", "SET_VRING_ENDIAN", "VRING_KICK", "VRING_CALL", "VRING_ERR",
}) do
  SHAPES[name] = { [8] = STATE }
end
for _, name in ipairs({ "SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR" }) do
  SHAPES[name] = { [8] = ring_fd }
end
-- Those whose own replies are structures, not an acknowledgement.
local STRUCTURED_REPLIES = {
  GET_VRING_BASE = true, GET_VRING_BASE_SKIP_DRAIN = true, GET_INFLIGHT_FD = true,
  SET_LOG_BASE = true, ADD_MEM_REG = true,
}

local function shape(name, size, is_reply)
  if (name == "GET_CONFIG" or name == "SET_CONFIG") and size >= 12 then return config end
  if name == "SET_MEM_TABLE" and size >= 40 then return regions end
  local known = SHAPES[name] and SHAPES[name][size]
  if known and (not is_reply or STRUCTURED_REPLIES[name]) then return known end
  return size == 8 and U64 or nil
end

function vu.dissector(buffer, pinfo, root)
  if buffer:len() < 24 or buffer(0, 1):uint() ~= 1 then return 0 end
  local bits = buffer(1, 1):uint()
  local from_back, on_channel = bits % 2 == 1, math.floor(bits / 2) % 2 == 1
  local big = math.floor(bits / 4) % 2 == 1
  local head = buffer(12, 12)
  local id, flags = number(head(0, 4), big), number(head(4, 4), big)
  local size = number(head(8, 4), big)
  local is_reply = math.floor(flags / 4) % 2 == 1
  local name = (on_channel and BACK_END or FRONT_END)[id] or ("message " .. id)
  local full = (on_channel and "VHOST_USER_BACKEND_" or "VHOST_USER_") .. name

  pinfo.cols.protocol = "vhost-user"
  pinfo.cols.src = from_back and "back-end" or "front-end"
  pinfo.cols.dst = from_back and "front-end" or "back-end"

  local tree = root:add(vu, buffer(), "vhost-user " .. full .. (is_reply and " reply" or ""))
  tree:add(f.sender, buffer(1, 1))
  tree:add(f.channel, buffer(1, 1))
  tree:add(f.fds, buffer(2, 2))
  if buffer(4, 8):uint64() > UInt64(0) then tree:add(f.latency, buffer(4, 8)) end
  tree:add(f.name, head(0, 4), full)
  local add = big and tree.add or tree.add_le
  add(tree, f.id, head(0, 4))
  local flag_tree = add(tree, f.flags, head(4, 4))
  local add_flag = big and flag_tree.add or flag_tree.add_le
  for _, field in ipairs({ f.version, f.reply, f.need_reply }) do
    add_flag(flag_tree, field, head(4, 4))
  end
  add(tree, f.size, head(8, 4))

  local info = full .. (is_reply and " reply" or "")
  if size > 0 and buffer:len() >= 24 + size then
    local data = buffer(24, size)
    local payload = tree:add(f.payload, data)
    local decode = shape(name, size, is_reply)
    if decode then decode(payload, data, big) end
    if decode == STATE then
      info = string.format("%s vring %d, %d", info, number(data(0, 4), big), number(data(4, 4), big))
    elseif decode == U64 then
      local value = big and data:uint64() or data:le_uint64()
      info = info .. " 0x" .. value:tohex():gsub("^0+(%x)", "%1")
    elseif decode == ring_fd then
      info = info .. " vring " .. (big and data(7, 1) or data(0, 1)):uint()
    end
  end
  local fds = buffer(2, 2):uint()
  if fds > 0 then info = info .. ", " .. fds .. " fd" .. (fds == 1 and "" or "s") end
  pinfo.cols.info = info
  return buffer:len()
end

DissectorTable.get("wtap_encap"):add(wtap.USER0, vu)
