-- Prints eight lines that are the same whoever runs it: LuaJIT's translator or its interpreter.
-- The argument says which of them it should be.
assert(jit.status() == (arg[1] == "translator"))
local bit = require("bit")
if jit.status() then
    -- Traces after two rounds, and room for few: code is dropped and written over all the time.
    jit.opt.start("hotloop=2", "hotexit=2", "maxtrace=100", "sizemcode=32", "maxmcode=64")
end

local function integers(seed)
    local x, sum = seed, 0
    for i = 1, 20000 do
        x = bit.tobit(x * 1103515245 % 4294967296 + 12345)
        sum = bit.bxor(sum, bit.rol(x, i % 31))
        if x % 7 == 3 then sum = bit.tobit(sum + i) end
    end
    return sum
end

local function floats(seed)
    local a, b = seed, 1
    for i = 1, 20000 do
        a = a + math.sqrt(i) / (b + i)
        b = math.floor(a) % 13
        if i % 1000 == 0 then a = a / 3 end
    end
    return string.format("%.17g", a)
end

local function tables(seed)
    local t = {}
    for i = 1, 3000 do t[i] = (i * 7919 + seed) % 3001 end
    table.sort(t, function(x, y) return x % 97 < y % 97 or (x % 97 == y % 97 and x < y) end)
    local sum = 0
    for i, v in ipairs(t) do sum = (sum * 31 + v * i) % 1000000007 end
    return sum
end

local function strings(seed)
    local parts = {}
    for i = 1, 2000 do parts[#parts + 1] = string.format("%x", i * seed):rep(i % 3 + 1):reverse() end
    local text, sum = table.concat(parts), 0
    for i = 1, #text do sum = (sum * 131 + text:byte(i)) % 16777213 end
    return sum
end

local function fib(n) return n < 2 and n or fib(n - 1) + fib(n - 2) end

-- Code that is made from text, so that every round has functions that nobody has seen before.
local function made(seed)
    local sum = 0
    for i = 1, 40 do
        local body = ("local s = 0 for i = 1, 300 do s = (s * %d + i) %% %d end return s")
        sum = sum + assert(loadstring(body:format(i + seed, 9973 + i)))()
    end
    return sum
end

local function closures(seed)
    local list = {}
    for i = 1, 50 do
        local step = i + seed
        list[i] = function(x) return (x * step + i) % 65521 end
    end
    local x = 1
    for _ = 1, 400 do for i = 1, #list do x = list[i](x) end end
    return x
end

-- Each piece many times, the code of all thrown away between: what ran there before is gone.
local function rounds(piece)
    local seen = {}
    for round = 1, 30 do
        seen[#seen + 1] = tostring(piece(round))
        if jit.status() then jit.flush() end
    end
    return table.concat(seen, " ")
end

for _, piece in ipairs({ integers, floats, tables, strings, made, closures }) do
    print(rounds(piece))
end
print(rounds(function(seed) return fib(15 + seed % 5) end))

-- All in turns, without throwing away by hand: the translator runs out of room by itself.
local sum = {}
for round = 1, 40 do
    for at, piece in ipairs({ integers, floats, tables, strings, made, closures }) do
        sum[#sum + 1] = #tostring(piece(round * at))
    end
end
print(#sum, table.concat(sum))
